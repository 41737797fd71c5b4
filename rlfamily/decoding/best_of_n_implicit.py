"""Best of N by an implicit reward (BoN-I): of N samples that with the highest sum over its tokens of

    log pi_tuned(y_t | x, y_<t) - log pi_untuned(y_t | x, y_<t)

its end included. Where the tuned model is KL-optimal this is r(x, y) / beta less what depends on the prompt alone; it
is a sum: a mean over tokens would rank otherwise.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rlfamily.decoding import Asked, Bench, Choice
from rlfamily.decoding.choosing import best
from rlfamily.decoding.pairs import Paired

VERSION = "1"
MODES = ("sample",)


class Config(Paired):
    """`samples` is N."""

    kind: Literal["best_of_n_implicit"]
    samples: int = Field(gt=0)

    @property
    def streams(self) -> int:
        """One a sample."""
        return self.samples


def asks(config: Config) -> frozenset[Asked]:
    """The two models."""
    return frozenset({"pair"})


def decode(config: Config, bench: Bench) -> list[Choice]:
    """The best of each request's samples."""
    drawn = bench.draw(config.samples)
    return [Choice(some[best(scores)], some) for some, scores in zip(drawn, bench.rate("pair", drawn), strict=True)]
