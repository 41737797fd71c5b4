"""FUDGE (Yang and Klein 2021): tokens by Bayes' rule, log pi(z | x, y) + log P(r = 1 | x, y + z).

The value function is a classifier of prefixes: V is a logit, P = sigmoid(V). With exact values and all tokens the
response has the law pi(y | x, r = 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from rlfamily.decoding import Asked, Bench, Choice
from rlfamily.decoding.guided import Guided
from rlfamily.decoding.tokens import Tokenwise, decode_tokens

VERSION = "1"
MODES = ("greedy", "sample")


class Config(Tokenwise, Guided):
    """A search by one classifier."""

    kind: Literal["fudge"]


def asks(config: Config) -> frozenset[Asked]:
    """The classifier."""
    return frozenset({"values"})


def decode(config: Config, bench: Bench) -> list[Choice]:
    """A response to each request."""
    return decode_tokens(bench, "values", config.top_k, law, bench.temperature)


def law(logps: Sequence[float], values: Sequence[float]) -> list[float]:
    """Logits of the options."""
    return [logp + log_sigmoid(value) for logp, value in zip(logps, values, strict=True)]


def log_sigmoid(logit: float) -> float:
    """log(1 / (1 + exp(-logit))), without overflow."""
    return min(logit, 0.0) - math.log1p(math.exp(-abs(logit)))
