"""Prompts to responses. `Engine` is the protocol; `torch_engine` is the default, others stand beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class SamplingParams:
    """How to draw: `temperature` divides the logits; `greedy` takes the likeliest token, at any temperature.

    `max_total_tokens` bounds prompt and response together, as the report counts them; a response cannot end before it
    has `min_new_tokens` tokens, its end included or not.
    """

    greedy: bool
    temperature: float
    max_total_tokens: int
    min_new_tokens: int = 0


@dataclass(frozen=True)
class Completion:
    """One response: token ids with the EOS if it came, the sampler's log-prob of each, and whether EOS is missing."""

    ids: list[int]
    logps: list[float]
    truncated: bool


class Engine(Protocol):
    """Generates one response per prompt given; row n uses the random stream of `seeds[n]` and no other."""

    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, seeds: Sequence[int]
    ) -> list[Completion]:
        """Return the responses in the order of the prompts."""
        ...


def stream_seed(*parts: int | str) -> int:
    """A 63-bit seed from a name such as (seed, "rollout", prompt, draw): independent streams, no shared state."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
