"""Choosing among candidates: the best, the most frequent, the best that differ, some by chance."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence


def best(scores: Sequence[float]) -> int:
    """The place of the highest score; of equal ones the first."""
    return max(range(len(scores)), key=lambda place: (scores[place], -place))


def ranked(scores: Sequence[float]) -> list[int]:
    """Places from the highest score to the lowest; equal ones stay in order."""
    return sorted(range(len(scores)), key=lambda place: -scores[place])


def diverse(scores: Sequence[float], contents: Sequence[Hashable]) -> list[int]:
    """As `ranked`, but what equals one before it comes behind all that differ (IRO sec. 4.2, diversity-first)."""
    seen: set[Hashable] = set()
    first: list[int] = []
    again: list[int] = []
    for place in ranked(scores):
        (again if contents[place] in seen else first).append(place)
        seen.add(contents[place])
    return first + again


def by_chance(scores: Sequence[float], temperature: float, chances: Sequence[float]) -> list[int]:
    """Places drawn without replacement, each with probability softmax(score / temperature) of those left.

    One for each of `chances`, the numbers between 0 and 1 by which they are drawn; no more than there are.
    """
    left, drawn = list(range(len(scores))), []
    for chance in chances[:len(scores)]:
        top = max(scores[place] for place in left)
        weights = [math.exp((scores[place] - top) / temperature) for place in left]
        drawn.append(left.pop(inverse(weights, chance)))
    return drawn


def inverse(weights: Sequence[float], chance: float) -> int:
    """The place at which the weights so far pass `chance` of their sum; it has a weight."""
    target, passed = chance * math.fsum(weights), 0.0
    for place, weight in enumerate(weights):
        passed += weight
        if passed > target:
            return place
    return max(place for place, weight in enumerate(weights) if weight > 0)


def most_frequent(answers: Sequence[str | None], scores: Sequence[float] | None = None) -> int:
    """The first place that has the most frequent answer, nothing counting as none; 0 where there is no answer.

    Of equally frequent ones that with the highest score, or the one that comes first.
    """
    counts = Counter(answer for answer in answers if answer is not None)
    if not counts:
        return 0 if scores is None else best(scores)
    places: dict[str, int] = {}
    for place in range(len(answers)) if scores is None else ranked(scores):
        answer = answers[place]
        if answer is not None:
            places.setdefault(answer, place)
    order = list(places)
    return places[max(order, key=lambda answer: (counts[answer], -order.index(answer)))]
