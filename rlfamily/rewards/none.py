"""No reward: for data whose held-out responses are measured by other means, such as text metrics and judges.

Every response has 0, so that nothing can be learned from it by drawing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from rlfamily.rewards import Check, ClassifierEngine, RewardConfig, RewardParts

if TYPE_CHECKING:
    import torch

    from rlfamily.examples import Example

VERSION = "1"
NEEDS: frozenset[str] = frozenset()


class Config(RewardConfig):
    """Nothing to set."""

    teaches: ClassVar[bool] = False
    kind: Literal["none"]


@dataclass(frozen=True)
class NoReward:
    """Reads nothing; what the task tells of a response stands beside the 0."""

    check: Check

    def score(
        self, examples: Sequence[Example], responses: Sequence[str], truncated: Sequence[bool] = ()
    ) -> list[RewardParts]:
        """Raises ValueError when there are not as many responses as examples."""
        return [RewardParts(0.0, self.check(response, example.meta))
                for example, response in zip(examples, responses, strict=True)]


def load(
    config: Config, check: Check, models: Mapping[str, Path], device: torch.device, micro_batch: int,
    vllm: ClassifierEngine | None = None,
) -> NoReward:
    """It reads no model."""
    return NoReward(check)
