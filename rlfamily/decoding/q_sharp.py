"""Q# (Zhou et al. 2025): tokens by the soft value of the reference policy,

    log pi(z | x, y) + log E[exp(eta r) | x, y + z]

over responses of the reference policy from there on. With exact values this is, in one step, the policy that maximises
the reward less KL / eta: a larger eta goes further from the reference. For rewards of 0 or 1 a classifier of prefixes
with logit V says it all: E[exp(eta r)] = 1 + P (exp(eta) - 1), in logs softplus(eta + V) - softplus(V).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from rlfamily.decoding import Asked, Bench, Choice
from rlfamily.decoding.guided import Guided
from rlfamily.decoding.tokens import Tokenwise, decode_tokens

VERSION = "1"
MODES = ("greedy", "sample")


class Config(Tokenwise, Guided):
    """`eta` is how much rewards count beside the divergence from the policy."""

    kind: Literal["q_sharp"]
    eta: float = Field(gt=0)


def asks(config: Config) -> frozenset[Asked]:
    """The classifier."""
    return frozenset({"values"})


def decode(config: Config, bench: Bench) -> list[Choice]:
    """A response to each request."""
    def law(logps: Sequence[float], values: Sequence[float]) -> list[float]:
        return [logp + soft_value(value, config.eta) for logp, value in zip(logps, values, strict=True)]

    return decode_tokens(bench, "values", config.top_k, law, bench.temperature)


def soft_value(logit: float, eta: float) -> float:
    """log E[exp(eta r)] of a reward that is 1 with probability sigmoid(logit), else 0."""
    return softplus(eta + logit) - softplus(logit)


def softplus(x: float) -> float:
    """log(1 + exp(x)), without overflow."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))
