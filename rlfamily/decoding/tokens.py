"""Guided decoding token by token: the policy's likeliest tokens, their log-probs changed by what the guide says."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from pydantic import Field

from rlfamily.decoding import Bench, Choice, DecodingConfig, Engaged, Guide
from rlfamily.decoding.choosing import best, inverse


class Tokenwise(DecodingConfig):
    """Only the `top_k` likeliest tokens are looked at."""

    top_k: int = Field(gt=0)

    @property
    def rows(self) -> int:
        """The guide's: one an option."""
        return self.top_k

    @property
    def engages(self) -> Engaged:
        """What may come next."""
        return "options"


Law = Callable[[Sequence[float], Sequence[float]], list[float]]
"""(log-probs of the options, the guide's scores of them) to the logits that one of them is drawn from."""


def decode_tokens(bench: Bench, guide: Guide, top_k: int, law: Law, temperature: float | None) -> list[Choice]:
    """A response to each request: drawn at `temperature`; in greedy mode, and with None, of the highest logits.

    Drawn tokens are cut by the bench's `top_p`.
    """
    beams = bench.grow(1, guide)
    while any(beams.running):
        tokens, logps = beams.options(top_k)
        scores, chances = beams.weigh(tokens), beams.chances()
        laws = [law(*told) for told in zip(logps, scores, strict=True)]
        beams.append([best(logits) if bench.greedy or temperature is None
                      else _drawn(logits, temperature, bench.top_p, chance)
                      for logits, chance in zip(laws, chances, strict=True)])
    return [Choice(one) for one in beams.completions()]


def _drawn(logits: Sequence[float], temperature: float, top_p: float, chance: float) -> int:
    top = max(logits)
    weights = [math.exp((logit - top) / temperature) for logit in logits]
    if top_p < 1.0:
        weights = _nucleus(weights, top_p)
    return inverse(weights, chance)


def _nucleus(weights: Sequence[float], top_p: float) -> list[float]:
    """The weights, 0 for all but the fewest of the heaviest that reach top_p of their sum together."""
    total, passed, kept = math.fsum(weights), 0.0, set()
    for place in sorted(range(len(weights)), key=lambda place: -weights[place]):
        if passed >= top_p * total:
            break
        kept.add(place)
        passed += weights[place]
    return [weight if place in kept else 0.0 for place, weight in enumerate(weights)]
