"""Iterative reward optimisation at inference (IRO, Alg. 4 and Eq. 8): beam search by sum_i V_i / beta_i over parts.

Iteration t guides by t value functions; at the end the reward model chooses among all candidates (or, of verifiable
answers, the most frequent one wins: `final: vote`).
"""

from __future__ import annotations

from typing import Literal

from rlfamily.decoding import Asked, Bench, Choice
from rlfamily.decoding.choosing import best, most_frequent
from rlfamily.decoding.guided import Guided
from rlfamily.decoding.search import Searching, parts, search

VERSION = "1"
MODES = ("sample",)


class Config(Searching, Guided):
    """`final`: what chooses among the last candidates; value: the sum that guided them."""

    kind: Literal["iro"]
    final: Literal["reward", "vote", "value"]


def asks(config: Config) -> frozenset[Asked]:
    """Value functions on the way, and what chooses at the end."""
    last: dict[str, frozenset[Asked]] = {"reward": frozenset({"rewards"}), "vote": frozenset({"answers"})}
    return last.get(config.final, frozenset()) | {"values"}


def decode(config: Config, bench: Bench) -> list[Choice]:
    """The best of the last candidates."""
    beams = search(config, bench, "values")
    finalists = parts(beams.completions(), config.width)
    if config.final == "reward":
        chosen = [best(scores) for scores in bench.rate("rewards", finalists)]
    else:
        values = parts(beams.scores(), config.width)
        chosen = [best(some) for some in values] if config.final == "value" else [
            most_frequent(answers, some) for answers, some in zip(bench.verdicts(finalists), values, strict=True)]
    return [Choice(some[place], some) for some, place in zip(finalists, chosen, strict=True)]
