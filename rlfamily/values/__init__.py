"""What value functions are fitted to: one file each, with a `Config`, what it `NEEDS`, and a pure `loss`.

The file system is the registry: `get("mc")` imports `rlfamily/values/mc.py`. A value function is a model of its own
that has a number for every state of a response: its prompt, each prefix, and the complete response, which is a state
like the others. VERSION is changed by hand when numbers change. Shape suffixes: N responses, S = T + 1 states.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, Self

from pydantic import Field, SerializeAsAny, model_validator

from rlfamily.plugins import Plugins
from rlfamily.settings import Optimizer, Strict, by_kind

if TYPE_CHECKING:
    from torch import Tensor

    from rlfamily.algorithms import LossOutput


class ValueConfig(Strict):
    """Common part of every Config: its file in this folder, and what errors are averaged over.

    token_mean         all states of the batch (the papers sum over them: the same up to a factor)
    per_sequence_mean  the states of each response, then responses
    """

    kind: str
    reduction: Literal["token_mean", "per_sequence_mean"]


@dataclass(frozen=True)
class ValueBatch:
    """Everything a loss may look at. Values are fp32 (or fp64 in tests); padding has mask 0.

    values_NS      V of the states h = 0..length of each response, gradient flows
    mask_NS        1 on those states, else 0
    outcomes_N     reward of each complete response
    old_values_NS  V at the last refresh, no gradient; None while that is the present one
    teacher_NS     what a compressed value function imitates, no gradient
    row_weight_N   multiplies a row's contribution to the expectation that the loss estimates, as in `LossBatch`
    """

    values_NS: Tensor
    mask_NS: Tensor
    outcomes_N: Tensor
    old_values_NS: Tensor | None = None
    teacher_NS: Tensor | None = None
    row_weight_N: Tensor | None = None


class ValueLoss(Protocol):
    """What a module in this folder offers. NEEDS: outcomes, teachers.

    One whose outcomes must be of a kind also has `problem(outcomes_N, config)`: why nothing can be learned from these,
    in a line, empty where something can.
    """

    VERSION: str
    NEEDS: frozenset[str]
    Config: type[ValueConfig]

    def loss(self, batch: ValueBatch, config: Any) -> LossOutput:
        """Return the scalar objective of one batch."""
        ...


LOSSES = Plugins[ValueLoss]("values", "loss.kind", "target of value functions")
names, get = LOSSES.names, LOSSES.get

AnyValueLoss = Annotated[SerializeAsAny[ValueConfig], by_kind(lambda kind: get(kind).Config)]


class ValueTraining(Strict):
    """How a value function is fitted: `batch_rows` responses a step, `epochs` passes."""

    loss: AnyValueLoss
    batch_rows: int = Field(gt=0)
    epochs: int = Field(gt=0)
    optimizer: Optimizer


class ValueFit(Strict):
    """A value function's training, and what it is fitted to.

    rows           of each of the outcomes the first so many are taken
    max_tokens     of a row; longer ones lose their prompt's beginning, then their own
    rewards        task, or shuffled over the training rows: a negative control
    drop_unanimous  leave out prompts of which all responses have the same reward
    betas          of the teachers that `compressed` sums, V_t / beta_t, in the order of their names; else empty
    """

    training: ValueTraining
    rows: int = Field(gt=0)
    max_tokens: int = Field(gt=0)
    rewards: Literal["task", "shuffled"]
    drop_unanimous: bool
    betas: list[Annotated[float, Field(gt=0)]]
    seed: int = Field(ge=0)

    @model_validator(mode="after")
    def _check_teachers(self) -> Self:
        if bool(self.betas) != ("teachers" in get(self.training.loss.kind).NEEDS):
            raise ValueError(f"loss.kind={self.training.loss.kind}: " + (
                "betas belong to loss.kind=compressed: give an empty list" if self.betas else "name a beta a teacher"))
        return self


def problem(outcomes_N: Tensor, config: ValueConfig) -> str:
    """Why the loss that `config` names can learn nothing from these outcomes, in a line; "" where it can."""
    module = get(config.kind)
    if "outcomes" not in module.NEEDS:
        return ""
    if not bool(outcomes_N.isfinite().all()):
        return f"{int((~outcomes_N.isfinite()).sum())} of {len(outcomes_N)} rewards are no finite numbers"
    if bool((outcomes_N == outcomes_N[0]).all()):
        return f"all {len(outcomes_N)} rewards are {float(outcomes_N[0]):g}"
    own = getattr(module, "problem", None)
    return str(own(outcomes_N, config)) if own else ""
