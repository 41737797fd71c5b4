"""Weak-to-strong search (Zhou et al. 2024, chunk-level beams): ranked by the implicit reward of what they said

    sum_t log pi_tuned(y_t | x, y_<t) - log pi_untuned(y_t | x, y_<t)

which is, where the tuned model is KL-optimal, its soft value less what depends on the prompt alone. The best beam by
that score is returned: no reward model is asked.
"""

from __future__ import annotations

from typing import Literal

from rlfamily.decoding import Asked, Bench, Choice
from rlfamily.decoding.choosing import best
from rlfamily.decoding.pairs import Paired
from rlfamily.decoding.search import Searching, parts, search

VERSION = "1"
MODES = ("sample",)


class Config(Searching, Paired):
    """A search by two models."""

    kind: Literal["weak_to_strong"]


def asks(config: Config) -> frozenset[Asked]:
    """The two models."""
    return frozenset({"pair"})


def decode(config: Config, bench: Bench) -> list[Choice]:
    """The best of the last candidates."""
    beams = search(config, bench, "pair")
    candidates = zip(parts(beams.completions(), config.width), parts(beams.scores(), config.width), strict=True)
    return [Choice(some[best(scores)], some) for some, scores in candidates]
