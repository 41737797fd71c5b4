"""Settings every training-time method shares. No Python defaults: numbers live in conf/algorithm/*.yaml."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from rlfamily import curricula
from rlfamily.curricula import AnyCurriculum
from rlfamily.settings import Distribution, Optimizer, Strict
from rlfamily.shaping import AnyShaping


class Sampling(Distribution):
    """How training rollouts are drawn. `greedy` makes the K responses of a prompt identical.

    Losses see the log-probs of the whole distribution at this temperature, as the trainers of public libraries do:
    with top_k, top_p or a penalty of repetition the rows are drawn from another one, which the run's mismatch then
    counts.
    """

    mode: Literal["sample", "greedy"]

    @property
    def varies(self) -> bool:
        """False when the responses of a prompt are identical."""
        return self.mode == "sample" and self.top_k != 1


class Kl(Strict):
    """Pull towards the initial policy. k1 in the loss has zero expected gradient: only noise."""

    coef: float = Field(ge=0)
    form: Literal["k1", "k2", "k3"]
    place: Literal["loss", "reward"]

    @property
    def needs(self) -> frozenset[str]:
        """The forwards it uses: the reference, and the behaviour policy where it is part of the reward."""
        if self.coef == 0:
            return frozenset()
        return frozenset({"ref", "old"} if self.place == "reward" else {"ref"})


class Start(Strict):
    """The policy a cell begins with: what training starts from, or, without training, what is scored."""

    warm_start: Literal["base", "sft"]


class NoTraining(Start):
    """algorithm=none: the start policy is scored as it is."""


class AlgorithmSettings(Start):
    """Common part of every algorithm's Config.

    `prompts` is the report's sample size (scaled by the task's `prompt_fraction`); a step takes `batch_prompts`
    of them with `group_size` responses each. `epochs` passes are made; with `resample_each_epoch` false the
    later passes reuse the logged responses of the first with their behaviour log-probs. `reward` is the task's own,
    a Bradley-Terry model fitted to preferences that the task's reward labels, or noise (a negative control); for
    methods that learn from logged responses, the logged one or, as a control, those of all rows shuffled.
    """

    reward: Literal["task", "reward_model", "random", "logged", "shuffled"]
    prompts: int = Field(gt=0)
    batch_prompts: int = Field(gt=0)
    group_size: int = Field(gt=0)
    epochs: int = Field(gt=0)
    inner_updates: int = Field(gt=0)
    resample_each_epoch: bool
    mask_truncated: bool
    kl_ref_every: int = Field(ge=0)
    optimizer: Optimizer
    sampling: Sampling
    shaping: list[AnyShaping]
    curriculum: AnyCurriculum

    @model_validator(mode="after")
    def _check_curriculum(self) -> Self:
        if curricula.get(self.curriculum.kind).COMPARES and (self.group_size == 1 or not self.sampling.varies):
            raise ValueError(f"curriculum.kind={self.curriculum.kind} compares the responses of a group: set "
                             "algorithm.group_size>=2, algorithm.sampling.mode=sample and sampling.top_k other than 1")
        return self


class LeaveOneOutGuard(AlgorithmSettings):
    """Refuses settings under which a leave-one-out baseline is undefined or identically zero."""

    allow_degenerate_baseline: bool

    @property
    def uses_leave_one_out(self) -> bool:
        """True when the advantage subtracts the mean reward of the other responses; always, without a choice."""
        return getattr(self, "baseline", "loo") == "loo"

    @model_validator(mode="after")
    def _check_leave_one_out(self) -> LeaveOneOutGuard:
        if self.uses_leave_one_out and self.group_size == 1:
            raise ValueError("group_size=1 leaves no other response for the leave-one-out baseline: "
                             "set algorithm.group_size>=2 or algorithm.baseline=none|running_mean")
        if self.uses_leave_one_out and not self.sampling.varies and not self.allow_degenerate_baseline:
            cause, way = ("mode=greedy", "mode=sample") if self.sampling.mode == "greedy" else ("top_k=1", "top_k=0")
            raise ValueError(f"sampling.{cause} makes the responses of a group identical, so the leave-one-out "
                             f"advantage is exactly 0: set algorithm.sampling.{way}, algorithm.baseline=none, "
                             "or algorithm.allow_degenerate_baseline=true for report parity")
        return self


class LoggedSettings(AlgorithmSettings):
    """Methods that learn from logged responses with a reward each. A prompt's group is as large as the data has it."""

    group_size: Literal[0]
    reward: Literal["logged", "shuffled"]


class ValueSettings(LoggedSettings):
    """A learned value beside the policy: on the policy's own states, or by a network apart that starts as its copy.

    Its head is an MLP with one hidden layer of `value_width` units; null: it is linear.
    """

    value_network: Literal["policy", "apart"]
    value_width: int | None = Field(gt=0)

    @property
    def apart(self) -> bool:
        """True when values come from a network of their own."""
        return self.value_network == "apart"
