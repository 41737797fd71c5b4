"""Best of N (BoN-E): N samples of the policy, the one that the reward ranks first; of equal ones the first drawn."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rlfamily.decoding import Asked, Bench, Choice, DecodingConfig
from rlfamily.decoding.choosing import best

VERSION = "1"
MODES = ("sample",)


class Config(DecodingConfig):
    """`samples` is N."""

    kind: Literal["best_of_n"]
    samples: int = Field(gt=0)

    @property
    def streams(self) -> int:
        """One a sample."""
        return self.samples


def asks(config: Config) -> frozenset[Asked]:
    """The task's reward."""
    return frozenset({"rewards"})


def decode(config: Config, bench: Bench) -> list[Choice]:
    """The best of each request's samples."""
    drawn = bench.draw(config.samples)
    return [Choice(some[best(scores)], some) for some, scores in zip(drawn, bench.rate("rewards", drawn), strict=True)]
