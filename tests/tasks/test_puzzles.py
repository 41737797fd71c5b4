"""Generated puzzles: solvable, unique, bounded, seeded; expressions with the fewest parentheses."""

from __future__ import annotations

import re

import pytest

from rlfamily.tasks.support import arithmetic
from rlfamily.tasks.support.puzzles import Generator, solutions


@pytest.mark.parametrize(("numbers", "target", "expressions"), [
    # 2 and 3 alone: 5, 1, 6; 3 / 2 is no integer.
    ((2, 3), 5, {"2 + 3"}), ((2, 3), 1, {"3 - 2"}), ((2, 3), 6, {"2 * 3"}), ((2, 3), 2, set()),
    # Parentheses only where the value needs them.
    ((2, 3, 4), 20, {"( 2 + 3 ) * 4"}),
    ((2, 3, 10), 5, {"10 - ( 2 + 3 )", "10 - 2 - 3", "10 - 3 - 2"}),
    ((12, 2, 3), 2, {"12 / ( 2 * 3 )", "12 / 2 / 3", "12 / 3 / 2", "12 / 3 - 2"}),
])
def test_solutions_by_hand(numbers: tuple[int, ...], target: int, expressions: set[str]) -> None:
    found = {option.expression for option in solutions(numbers, 100) if option.value == target}
    assert found == expressions


@pytest.mark.parametrize("numbers", [(2, 3, 4), (6, 6, 1), (8, 4, 2), (3, 5, 7, 9)])
def test_every_solution_is_right_step_by_step(numbers: tuple[int, ...]) -> None:
    options = solutions(numbers, 60)
    assert options
    for option in options:
        assert arithmetic.solves(option.expression, numbers, option.value)
        assert len(option.steps) == len(numbers) - 1
        for step in option.steps:
            expression, value = step.split(" = ")
            result = arithmetic.evaluate(expression)
            assert result is not None and result[0] == int(value) and 1 <= int(value) <= 60


GENERIC = {"2": "1009", "5": "2003", "9": "4001", "4": "8009"}  # primes: values agree only when formulas do


def test_no_pair_of_parentheses_can_be_dropped() -> None:
    for option in solutions((2, 5, 9, 4), 100):
        formula = re.sub(r"\d+", lambda match: GENERIC[match.group()], option.expression)
        for left in [match.start() for match in re.finditer(r"\(", formula)]:
            assert arithmetic.evaluate(_without_parentheses(formula, left)) != arithmetic.evaluate(formula)


def _without_parentheses(text: str, left: int) -> str:
    """Blank out the pair that opens at `left`."""
    depth, right = 1, left
    while depth:
        right += 1
        depth += {"(": 1, ")": -1}.get(text[right], 0)
    return f"{text[:left]} {text[left + 1:right]} {text[right + 1:]}"


def test_solver_finds_every_value_that_brute_force_finds() -> None:
    numbers, found = (3, 4, 6), set()
    orders = [(a, b, c) for a in numbers for b in numbers for c in numbers if sorted((a, b, c)) == sorted(numbers)]
    for a, b, c in orders:
        for p in "+-*/":
            for q in "+-*/":
                for inner, whole in ((f"{a}{p}{b}", f"({a}{p}{b}){q}{c}"), (f"{b}{q}{c}", f"{a}{p}({b}{q}{c})")):
                    values = [arithmetic.evaluate(inner), arithmetic.evaluate(whole)]
                    if all(v is not None and v[0].denominator == 1 and 1 <= v[0] <= 50 for v in values):
                        found.add(int(values[1][0]))  # type: ignore[index]
    assert {option.value for option in solutions(numbers, 50)} == found


def test_generator_is_seeded_unique_and_bounded() -> None:
    first, again, other = (Generator(3, 20, 100, seed).distinct(300, set()) for seed in (0, 0, 1))
    assert first == again != other
    assert len({puzzle.key for puzzle in first}) == 300
    for puzzle in first:
        assert arithmetic.solves(puzzle.solution.expression, puzzle.numbers, puzzle.target)
        assert 1 <= puzzle.target <= 100 and all(1 <= number <= 20 for number in puzzle.numbers)


def test_generator_stops_when_puzzles_run_out() -> None:
    # Two numbers from {1, 2}, values up to 4: 1+1 1*1 1/1 | 1+2 2-1 1*2 2/1 | 2+2 2*2 2/2: seven keys.
    assert {puzzle.key for puzzle in Generator(2, 2, 4, 0).distinct(50, set())} == {
        ((1, 1), 1), ((1, 1), 2), ((1, 2), 1), ((1, 2), 2), ((1, 2), 3), ((2, 2), 1), ((2, 2), 4)}


def test_wrong_solutions_are_sound_arithmetic_with_another_value() -> None:
    generator = Generator(3, 20, 100, 0)
    for puzzle in generator.distinct(50, set()):
        wrong = generator.wrong_solution(puzzle)
        assert wrong is not None and wrong.value != puzzle.target
        assert arithmetic.solves(wrong.expression, puzzle.numbers, wrong.value)
