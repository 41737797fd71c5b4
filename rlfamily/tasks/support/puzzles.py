"""Solvable arithmetic puzzles and their worked solutions, from a seeded generator alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}
_ATOM = 3

PuzzleKey = tuple[tuple[int, ...], int]


@dataclass(frozen=True)
class Term:
    """A positive integer `value`, the expression that makes it, and the precedence of its outermost operation."""

    value: int
    text: str
    precedence: int = _ATOM


@dataclass(frozen=True)
class Solution:
    """One way to use all numbers once: `steps` such as "3 + 7 = 10", and the whole `expression`."""

    value: int
    expression: str
    steps: tuple[str, ...]


@dataclass(frozen=True)
class Puzzle:
    """Numbers in the order shown, the target, and one solution."""

    numbers: tuple[int, ...]
    target: int
    solution: Solution

    @property
    def key(self) -> PuzzleKey:
        """What makes two puzzles the same: the multiset of numbers and the target."""
        return tuple(sorted(self.numbers)), self.target


def solutions(numbers: tuple[int, ...], max_value: int) -> list[Solution]:
    """Every order of operations on all `numbers` whose intermediate values are integers in [1, max_value].

    Cost grows as n! (n-1)! 4^(n-1): 48 candidates for three numbers, about 3,000 for four.
    """
    return list(_combine([Term(number, str(number)) for number in numbers], (), max_value))


class Generator:
    """Draws puzzles: numbers uniform in [1, max_operand], then one of their solutions, uniformly.

    Values, intermediate ones and the target alike, are integers in [1, max_value].
    """

    def __init__(self, count: int, max_operand: int, max_value: int, seed: int) -> None:
        self.count, self.max_operand, self.max_value = count, max_operand, max_value
        self.random = random.Random(seed)

    def puzzle(self) -> Puzzle:
        """Draw one puzzle with the solution that made it."""
        while True:
            numbers = tuple(self.random.randint(1, self.max_operand) for _ in range(self.count))
            options = solutions(numbers, self.max_value)
            if options:
                chosen = self.random.choice(options)
                return Puzzle(numbers, chosen.value, chosen)

    def wrong_solution(self, puzzle: Puzzle) -> Solution | None:
        """Draw sound arithmetic on the puzzle's numbers that misses its target; None when there is none."""
        options = [option for option in solutions(puzzle.numbers, self.max_value) if option.value != puzzle.target]
        return self.random.choice(options) if options else None

    def distinct(self, count: int, taken: set[PuzzleKey]) -> list[Puzzle]:
        """Draw `count` puzzles with keys not in `taken`, adding theirs to it; fewer when new ones run out."""
        puzzles: list[Puzzle] = []
        failures = 0
        while len(puzzles) < count and failures < 2_000:
            puzzle = self.puzzle()
            failures = failures + 1 if puzzle.key in taken else 0
            if not failures:
                taken.add(puzzle.key)
                puzzles.append(puzzle)
        return puzzles


def _combine(terms: list[Term], steps: tuple[str, ...], max_value: int) -> Iterator[Solution]:
    """Depth first: join any two terms by any operation, until one is left."""
    if len(terms) == 1:
        yield Solution(terms[0].value, terms[0].text, steps)
        return
    for i, j in combinations(range(len(terms)), 2):
        rest = [term for place, term in enumerate(terms) if place not in (i, j)]
        for term, step in _joined(terms[i], terms[j], max_value):
            yield from _combine([term, *rest], (*steps, step), max_value)


def _joined(a: Term, b: Term, max_value: int) -> Iterator[tuple[Term, str]]:
    """The terms that two terms make with each of + - * / (the order of - and / that stays a positive integer)."""
    high, low = (a, b) if a.value >= b.value else (b, a)
    results = [("+", a, b, a.value + b.value), ("-", high, low, high.value - low.value), ("*", a, b, a.value * b.value)]
    if high.value % low.value == 0:
        results.append(("/", high, low, high.value // low.value))
    for sign, left, right, value in results:
        if 1 <= value <= max_value:
            text = f"{_inside(left, sign, False)} {sign} {_inside(right, sign, True)}"
            yield Term(value, text, _PRECEDENCE[sign]), f"{left.value} {sign} {right.value} = {value}"


def _inside(term: Term, sign: str, is_right: bool) -> str:
    """The term's text as an operand of `sign`, in parentheses only where its value would change without them."""
    outer = _PRECEDENCE[sign]
    needs = term.precedence < outer or (is_right and term.precedence == outer and sign in "-/")
    return f"( {term.text} )" if needs else term.text
