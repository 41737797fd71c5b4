"""The verifiable reward of the TOPR report, eq. 8: r = r_f + r_v with r_f, r_v in {-1, +1}, so r in {-2, 0, 2}."""

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
NEEDS: frozenset[str] = frozenset({"format", "valid"})


class Config(RewardConfig):
    """Nothing to set: the report fixes both values."""

    kind: Literal["verifiable"]


@dataclass(frozen=True)
class Verifiable:
    """Rewards a response by its task's own checker, which says `format` and `valid` (0 or 1 each)."""

    check: Check

    def score(
        self, examples: Sequence[Example], responses: Sequence[str], truncated: Sequence[bool] = ()
    ) -> list[RewardParts]:
        """Score response n as an answer to example n. Raises ValueError when their numbers differ."""
        verdicts = [self.check(response, example.meta)
                    for example, response in zip(examples, responses, strict=True)]
        return [RewardParts(2 * (parts["format"] + parts["valid"]) - 2, parts) for parts in verdicts]


def load(
    config: Config, check: Check, models: Mapping[str, Path], device: torch.device, micro_batch: int,
    vllm: ClassifierEngine | None = None,
) -> Verifiable:
    """The checker of `task`, as a reward."""
    return Verifiable(check)
