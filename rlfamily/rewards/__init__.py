"""Rewards: a number for each response, with the verifier's parts beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rlfamily.tasks import Example


@dataclass(frozen=True)
class RewardParts:
    """`reward` is what training maximises; `format` and `valid` are the verifier's verdicts, each -1 or +1.

    A learned reward gives its own `reward` and still reports the parts, so that rates can be read off any run.
    """

    reward: float
    format: float
    valid: float


class Reward(Protocol):
    """Anything that scores responses."""

    def score(self, examples: Sequence[Example], responses: Sequence[str]) -> list[RewardParts]:
        """Score response n (without its prompt) as an answer to example n; N in, N out."""
        ...
