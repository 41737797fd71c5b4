"""Majority voting: of N samples the first with the most frequent answer; those without one have no vote."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rlfamily.decoding import Asked, Bench, Choice, DecodingConfig
from rlfamily.decoding.choosing import most_frequent

VERSION = "1"
MODES = ("sample",)


class Config(DecodingConfig):
    """`samples` is N."""

    kind: Literal["majority_vote"]
    samples: int = Field(gt=0)

    @property
    def streams(self) -> int:
        """One a sample."""
        return self.samples


def asks(config: Config) -> frozenset[Asked]:
    """What the samples answer."""
    return frozenset({"answers"})


def decode(config: Config, bench: Bench) -> list[Choice]:
    """A sample with the winning answer for each request."""
    drawn = bench.draw(config.samples)
    return [Choice(some[most_frequent(answers)], some)
            for some, answers in zip(drawn, bench.verdicts(drawn), strict=True)]
