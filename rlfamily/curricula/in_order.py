"""Every prompt once a pass, in an order of the pass's own; every group is kept. The default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rlfamily.curricula import CurriculumConfig, Prompts
from rlfamily.streams import epoch_slice

VERSION = "1"
COMPARES = False


class Config(CurriculumConfig):
    """Nothing to set."""

    kind: Literal["in_order"]


@dataclass(frozen=True)
class InOrder:
    """The step says it all, so there is no state."""

    prompts: Prompts

    def select(self, step: int, turn: int, missing: int) -> list[tuple[int, int]]:
        """The step's share of the pass, drawn once."""
        if turn:
            return []
        steps = self.prompts.steps_per_epoch
        places = epoch_slice(self.prompts.count, self.prompts.batch, step, steps, self.prompts.seed)
        return [(step // steps, place) for place in places]

    def keep(self, rewards: Sequence[Sequence[float]]) -> list[bool]:
        """All of them."""
        return [True] * len(rewards)

    def state(self) -> dict[str, Any]:
        """No state beside the step number."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


def start(config: Config, prompts: Prompts) -> InOrder:
    """The rule."""
    return InOrder(prompts)
