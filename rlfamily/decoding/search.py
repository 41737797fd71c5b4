"""Beam search over parts of responses, as IRO (Alg. 4), weak-to-strong search and blockwise decoding have it.

    candidates = U = beams * branches partial responses of at most `chunk` tokens
    while one of them goes on:
        parents = the `beams` best by the guide's score     (the policy's log-prob plays no part: they are its samples)
        candidates = `branches` continuations of each parent; one that has ended stays as it is
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

from pydantic import Field

from rlfamily.decoding import Beams, Bench, DecodingConfig, Engaged, Guide
from rlfamily.decoding.choosing import by_chance, diverse, ranked
from rlfamily.settings import Strict

T = TypeVar("T")


class Shape(Strict):
    """K `beams` of B `branches`, parts of `chunk` tokens (Alg. 4's names; IRO's App. H.1.3 swaps K and B).

    pick       parents: the best (top), the best that differ first (diverse), or drawn by softmax(score / temperature)
    finished   a parent that has ended takes all of its places (repeat), or one, and the others share the rest (once)
    """

    beams: int = Field(gt=0)
    branches: int = Field(gt=0)
    chunk: int = Field(gt=0)
    pick: Literal["top", "diverse", "stochastic"]
    temperature: float = Field(gt=0)
    finished: Literal["repeat", "once"]

    @property
    def width(self) -> int:
        """U, the candidates of a response."""
        return self.beams * self.branches


class Searching(Shape, DecodingConfig):
    """A decoder that is such a search."""

    @property
    def rows(self) -> int:
        """The candidates."""
        return self.width

    @property
    def engages(self) -> Engaged:
        """Parts."""
        return "parts"


def parts(values: Sequence[T], width: int) -> list[Sequence[T]]:
    """What rows have, request by request."""
    return [values[start:start + width] for start in range(0, len(values), width)]


def search(shape: Shape, bench: Bench, guide: Guide) -> Beams:
    """Candidates for every request, all of them at their ends."""
    beams = bench.grow(shape.width, guide)
    beams.draw(shape.chunk)
    rounds = 0
    while any(beams.running):
        scores, running = beams.scores(), beams.running
        contents = [tuple(row.ids) for row in beams.completions()]
        index: list[int] = []
        for request in range(bench.requests):
            span = slice(request * shape.width, (request + 1) * shape.width)
            children = list(range(shape.width))
            if any(running[span]):
                chances = [bench.chance(request, rounds * shape.beams + number) for number in range(shape.beams)]
                parents = _parents(shape, scores[span], contents[span], chances)
                children = _children(shape, parents, running[span])
            index += [span.start + place for place in children]
        rounds += 1
        beams.select(index)
        beams.draw(shape.chunk)
    return beams


def _parents(
    shape: Shape, scores: Sequence[float], contents: Sequence[tuple[int, ...]], chances: Sequence[float]
) -> list[int]:
    if shape.pick == "stochastic":
        return by_chance(scores, shape.temperature, chances)
    order = ranked(scores) if shape.pick == "top" else diverse(scores, contents)
    return order[:shape.beams]


def _children(shape: Shape, parents: Sequence[int], running: Sequence[bool]) -> list[int]:
    """The parent of each of the next candidates."""
    if shape.finished == "repeat" or not any(running[parent] for parent in parents):
        return [parent for parent in parents for _ in range(shape.branches)]
    ended = [parent for parent in parents if not running[parent]]
    others = [parent for parent in parents if running[parent]]
    places = shape.width - len(ended)
    shares = [places // len(others) + (rank < places % len(others)) for rank in range(len(others))]
    return ended + [parent for parent, share in zip(others, shares, strict=True) for _ in range(share)]
