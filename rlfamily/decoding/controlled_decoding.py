"""Controlled decoding (Mudgal et al. 2024): a value function of the policy guides its tokens or its parts.

    token   among the top_k likeliest next tokens, logits log pi(z | x, y) + eta V(x, y + z)
    block   the best by V of beams * branches parts of `chunk` tokens goes on, alone

The added value is no KL-optimal policy: exp(eta V) tilts by the plain value, not by the soft one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from rlfamily.decoding import Asked, Bench, Choice, Engaged
from rlfamily.decoding.choosing import best
from rlfamily.decoding.guided import Guided
from rlfamily.decoding.search import Shape, parts, search
from rlfamily.decoding.tokens import decode_tokens

VERSION = "1"
MODES = ("greedy", "sample")


class Config(Guided):
    """`level` token looks at `top_k` tokens and `eta`, block at `branches` parts of `chunk` tokens."""

    kind: Literal["controlled_decoding"]
    level: Literal["token", "block"]
    eta: float = Field(ge=0)
    top_k: int = Field(gt=0)
    branches: int = Field(gt=0)
    chunk: int = Field(gt=0)

    @property
    def rows(self) -> int:
        """The candidates: parts, or tokens."""
        return self.branches if self.level == "block" else self.top_k

    @property
    def engages(self) -> Engaged:
        """Parts, or what may come next."""
        return "parts" if self.level == "block" else "options"


def asks(config: Config) -> frozenset[Asked]:
    """The value function."""
    return frozenset({"values"})


def decode(config: Config, bench: Bench) -> list[Choice]:
    """A response to each request."""
    if config.level == "token":
        def law(logps: Sequence[float], values: Sequence[float]) -> list[float]:
            return [logp + config.eta * value for logp, value in zip(logps, values, strict=True)]

        return decode_tokens(bench, "values", config.top_k, law, bench.temperature)
    shape = Shape(beams=1, branches=config.branches, chunk=config.chunk, pick="top", temperature=1.0, finished="repeat")
    beams = search(shape, bench, "values")
    candidates = zip(parts(beams.completions(), shape.width), parts(beams.scores(), shape.width), strict=True)
    return [Choice(some[best(scores)]) for some, scores in candidates]
