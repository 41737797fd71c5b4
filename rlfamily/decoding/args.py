"""ARGS (Khanov et al. 2024): tokens by the policy's logit and the reward of the response so far,

    logit(z | x, y) + w r(x, y + z)

among the `top_k` likeliest; the highest, or drawn by softmax(score / temperature). The reward model was trained on
complete responses: what it says of parts is outside of what it learned. w = 0 and no chance is greedy decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from rlfamily.decoding import Asked, Bench, Choice
from rlfamily.decoding.tokens import Tokenwise, decode_tokens

VERSION = "1"
MODES = ("greedy", "sample")


class Config(Tokenwise):
    """`weight` is w; `drawn` tokens are, by their scores at `temperature`, in place of taking the highest."""

    kind: Literal["args"]
    weight: float = Field(ge=0)
    drawn: bool
    temperature: float = Field(gt=0)


def asks(config: Config) -> frozenset[Asked]:
    """The task's reward, of parts of responses."""
    return frozenset({"rewards"})


def decode(config: Config, bench: Bench) -> list[Choice]:
    """A response to each request. Log-probs stand for logits: they differ by what is the same for all tokens."""
    def law(logps: Sequence[float], rewards: Sequence[float]) -> list[float]:
        return [logp + config.weight * reward for logp, reward in zip(logps, rewards, strict=True)]

    return decode_tokens(bench, "rewards", config.top_k, law, config.temperature if config.drawn else None)
