"""Rules for which prompts come next and which groups are kept: one file each, with a state that checkpoints hold.

The file system is the registry: `get("varied")` imports `rlfamily/curricula/varied.py`. A rule sees prompts as places
in the training split and groups as their rewards, nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from pydantic import SerializeAsAny

from rlfamily.plugins import Plugins
from rlfamily.settings import Strict, by_kind


class CurriculumConfig(Strict):
    """Common part of every rule's Config: its file in this folder."""

    kind: str


@dataclass(frozen=True)
class Prompts:
    """What a rule chooses from: `count` prompts, `batch` of them a step, passed over in an order of `seed`'s."""

    count: int
    batch: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which all prompts come once; the last may be short."""
        return -(-self.count // self.batch)


class Curriculum(Protocol):
    """One run's rule. Its answers are functions of its state and of what it is asked."""

    def select(self, step: int, turn: int, missing: int) -> list[tuple[int, int]]:
        """The prompts that a step draws next, as (pass over the data, place in the split); [] for no more.

        `turn` counts the draws of this step from 0; `missing` groups of the batch are still wanted.
        """
        ...

    def keep(self, rewards: Sequence[Sequence[float]]) -> list[bool]:
        """Whether each group, given by its responses' rewards, is learned from."""
        ...

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold, as plain data."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Undo `state`."""
        ...


class CurriculumModule(Protocol):
    """What a module in this folder offers. VERSION is changed by hand when its numbers change.

    COMPARES: whether it looks at how the rewards of a group differ, so that groups need responses that may differ.
    """

    VERSION: str
    COMPARES: bool
    Config: type[CurriculumConfig]

    def start(self, config: Any, prompts: Prompts) -> Curriculum:
        """The rule at the beginning of a run."""
        ...


RULES = Plugins[CurriculumModule]("curricula", "algorithm.curriculum", "rule")
names, get = RULES.names, RULES.get


AnyCurriculum = Annotated[SerializeAsAny[CurriculumConfig], by_kind(lambda kind: get(kind).Config)]
