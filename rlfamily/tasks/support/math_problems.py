"""Arithmetic with mixed operations, and its worked steps: right, or with the beginner's mistake of left to right."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from rlfamily.errors import UserError

SIGNS = "+-*"
TRIES = 5_000  # draws for one problem; the rarest kind that we use takes about 20


@dataclass(frozen=True)
class Problem:
    """Numbers with one sign between each two, to be worked out with `*` before `+` and `-`."""

    numbers: tuple[int, ...]
    signs: tuple[str, ...]

    def __str__(self) -> str:
        rest = (f" {sign} {number}" for sign, number in zip(self.signs, self.numbers[1:], strict=True))
        return str(self.numbers[0]) + "".join(rest)


@dataclass(frozen=True)
class Step:
    """One operation on two values."""

    left: int
    sign: str
    right: int
    value: int

    def __str__(self) -> str:
        return f"{self.left} {self.sign} {self.right} = {self.value}"


def solve(problem: Problem, left_to_right: bool) -> list[Step]:
    """One step per sign. `left_to_right` ignores that `*` goes first, so the last value may be wrong."""
    numbers, signs = list(problem.numbers), list(problem.signs)
    steps: list[Step] = []
    while signs:
        place = 0 if left_to_right or "*" not in signs else signs.index("*")
        left, sign, right = numbers[place], signs.pop(place), numbers.pop(place + 1)
        value = left + right if sign == "+" else left - right if sign == "-" else left * right
        numbers[place] = value
        steps.append(Step(left, sign, right, value))
    return steps


class Generator:
    """Draws problems whose values, intermediate ones and the answer, are integers in [0, max_value]."""

    def __init__(self, max_value: int, seed: int) -> None:
        self.max_value = max_value
        self.random = random.Random(seed)

    def new(self, operations: int, max_operand: int, tricky: float, taken: set[Problem]) -> Problem:
        """Draw one that is not in `taken`, with numbers in [1, max_operand].

        With probability `tricky` it is one that has another answer when worked from left to right, by values in range.
        Raises UserError when none is found.
        """
        wanted = self.random.random() < tricky
        for _ in range(TRIES):
            numbers = tuple(self.random.randint(1, max_operand) for _ in range(operations + 1))
            drawn = Problem(numbers, tuple(self.random.choices(SIGNS, k=operations)))
            if self._in_range(solve(drawn, left_to_right=False)) and (self.mistaken(drawn) is not None) == wanted \
                    and drawn not in taken:
                return drawn
        raise UserError(f"task.source: no more problems with {operations} operations on numbers up to {max_operand} "
                        "found: raise max_operand or max_value, or lower the sizes of the splits")

    def mistaken(self, problem: Problem) -> list[Step] | None:
        """Steps from left to right, when they miss the answer and stay in range; None when they do not."""
        steps = solve(problem, left_to_right=True)
        wrong = steps[-1].value != solve(problem, left_to_right=False)[-1].value
        return steps if wrong and self._in_range(steps) else None

    def _in_range(self, steps: Sequence[Step]) -> bool:
        """True when every value has a word of its own."""
        return all(0 <= step.value <= self.max_value for step in steps)
