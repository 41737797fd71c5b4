"""What decoders with value functions have in common: where those come from, and how much each counts."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rlfamily.decoding import DecodingConfig
from rlfamily.rewards import ModelSource
from rlfamily.settings import Strict
from rlfamily.values import ValueTraining


class FromPolicy(Strict):
    """The cell's own start policy, with a new head."""

    kind: Literal["policy"]


class FromReward(Strict):
    """The reward model of the task, by its name, head and all."""

    kind: Literal["reward"]
    name: str


class FromModel(Strict):
    """A model of its own: a reward model that is trained here, or a published one."""

    kind: Literal["model"]
    model: ModelSource


Start = Annotated[FromPolicy | FromReward | FromModel, Field(discriminator="kind")]


class ValueSource(Strict):
    """How value functions come about: V_t learns from responses that V_1..V_(t-1) guided, and starts from V_(t-1).

    prompts      training prompts that responses are drawn to, `samples` to each
    keep         of a guided response the one that was returned, or all that it was chosen from (finalists)
    training     null: the start is taken as it is, untrained (a negative control)
    The others are those of `ValueFit`.
    """

    start: Start
    prompts: int = Field(gt=0)
    samples: int = Field(gt=0)
    keep: Literal["returned", "finalists"]
    drop_unanimous: bool
    rewards: Literal["task", "shuffled"]
    lr_multiplier: float = Field(gt=0)
    training: ValueTraining | None


class Guided(DecodingConfig):
    """Of `len(betas)` value functions, V_i counts by 1 / betas[i]. `compressed`: one that learned their sum."""

    betas: list[float] = Field(min_length=1)
    compressed: bool
    values: ValueSource | None

    @model_validator(mode="after")
    def _check_betas(self) -> Self:
        if any(beta <= 0 for beta in self.betas):
            raise ValueError(f"betas={self.betas}: each must be above 0, as V / beta is what counts")
        return self

    @property
    def weights(self) -> list[float]:
        """What each of the value functions that are asked counts by."""
        return [1.0] if self.compressed else [1 / beta for beta in self.betas]

    def unsourced(self) -> Self:
        """How responses are made; where the value functions come from is left out."""
        whole = {"betas": [1.0], "compressed": False} if self.compressed else {}
        return self.model_copy(update={"values": None, **whole})

    def after(self, iterations: int) -> Self:
        """The same with the first value functions only."""
        return self.model_copy(update={"betas": self.betas[:iterations], "compressed": False})
