"""Only groups whose rewards differ, refilled from the prompts that follow (DAPO, Yu et al. 2025, sec. 3.2).

Equal rewards teach a method nothing that compares the responses of a group. The paper draws until the batch is full;
here a step draws at most `rounds` times more, and learns from what it has then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from rlfamily.curricula import CurriculumConfig, Prompts
from rlfamily.streams import epoch_order, epoch_slice

VERSION = "1"
COMPARES = True


class Config(CurriculumConfig):
    """`rounds`: how often at most a step draws again for the groups it dropped."""

    kind: Literal["varied"]
    rounds: int = Field(ge=0)


@dataclass
class Varied:
    """`cursor` counts the prompts drawn so far, through one pass over the data after another."""

    rounds: int
    prompts: Prompts
    cursor: int = 0

    def select(self, step: int, turn: int, missing: int) -> list[tuple[int, int]]:
        """As many prompts as the step was planned with, and then as many as it still misses."""
        if turn > self.rounds:
            return []
        planned = epoch_slice(self.prompts.count, self.prompts.batch, step, self.prompts.steps_per_epoch, 0)
        count = missing if turn else len(planned)
        places = [divmod(self.cursor + ahead, self.prompts.count) for ahead in range(count)]
        self.cursor += count
        return [(turned, epoch_order(self.prompts.count, turned, self.prompts.seed)[place]) for turned, place in places]

    def keep(self, rewards: Sequence[Sequence[float]]) -> list[bool]:
        """Those that are not all equal."""
        return [len(set(group)) > 1 for group in rewards]

    def state(self) -> dict[str, Any]:
        """The cursor."""
        return {"cursor": self.cursor}

    def restore(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self.cursor = state["cursor"]


def start(config: Config, prompts: Prompts) -> Varied:
    """The rule, at the first prompt."""
    return Varied(config.rounds, prompts)
