"""The hidden true reward of a stand-in, as it is: for what no method sees while it learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rlfamily.rewards import Check, ClassifierEngine, RewardConfig, RewardParts

if TYPE_CHECKING:
    import torch

    from rlfamily.examples import Example

VERSION = "1"
NEEDS: frozenset[str] = frozenset({"gold"})


class Config(RewardConfig):
    """Nothing to set."""

    kind: Literal["gold"]


@dataclass(frozen=True)
class Gold:
    """Rewards a response by what its task alone knows."""

    check: Check

    def score(
        self, examples: Sequence[Example], responses: Sequence[str], truncated: Sequence[bool] = ()
    ) -> list[RewardParts]:
        """Score response n as an answer to example n. Raises ValueError when their numbers differ."""
        told = [self.check(response, example.meta) for example, response in zip(examples, responses, strict=True)]
        return [RewardParts(parts["gold"], parts) for parts in told]


def load(
    config: Config, check: Check, models: Mapping[str, Path], device: torch.device, micro_batch: int,
    vllm: ClassifierEngine | None = None,
) -> Gold:
    """The check of a task, as a reward."""
    return Gold(check)
