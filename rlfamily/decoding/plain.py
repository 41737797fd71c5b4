"""Plain decoding: each response is drawn token by token from the policy, and none is thrown away."""

from __future__ import annotations

from typing import Literal

from rlfamily.decoding import Asked, Bench, Choice, DecodingConfig

VERSION = "1"
MODES = ("greedy", "sample")


class Config(DecodingConfig):
    """Nothing to set: how to draw is the task's."""

    kind: Literal["plain"]


def asks(config: Config) -> frozenset[Asked]:
    """Nothing guides it."""
    return frozenset()


def decode(config: Config, bench: Bench) -> list[Choice]:
    """The first that comes."""
    return [Choice(drawn[0]) for drawn in bench.draw(1)]
