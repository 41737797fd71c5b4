"""The checker: hand cases, laws on random expressions, hostile text, and wrong checkers that the cases catch."""

from __future__ import annotations

import re
import time
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlfamily.tasks import countdown
from rlfamily.tasks.support import arithmetic

NUMBERS, TARGET = [3, 7, 12], 22
META = {"nums": NUMBERS, "target": TARGET}


def wrapped(answer: str) -> str:
    return f"some thoughts <answer>{answer}</answer>"


@pytest.mark.parametrize(("answer", "expected"), [
    ("3 + 7 + 12", (True, True)),
    ("(3+7)+12", (True, True)),
    (" ( 12 + 3 )\n + 7 ", (True, True)),  # blanks of any kind
    ("((((3))))+7+12", (True, True)),
    ("3 * 7 + 12", (True, False)),  # 33
    ("3 + 7", (True, False)),  # 12 is unused
    ("3 + 7 + 12 + 3 - 3", (True, False)),  # 3 used three times
    ("22", (True, False)),
    ("", (False, False)),
    ("   ", (False, False)),
    ("3 + 7 + 12 = 22", (False, False)),  # an equation is not an expression
    ("three + 7 + 12", (False, False)),
    ("+", (True, False)),  # only allowed characters, as the public checker has it
    ("3 7 12", (True, False)),
    ("3 + 7 + 12)", (True, False)),
    ("03 + 7 + 12", (True, False)),  # not an integer literal
    ("3.0 + 7 + 12", (True, False)),
    ("-3 + 7 + 12 + 3 + 3", (True, False)),
    ("12 / (7 - 7) + 3", (True, False)),  # division by zero
])
def test_hand_cases(answer: str, expected: tuple[bool, bool]) -> None:
    assert countdown.score(wrapped(answer), META) == {"format": expected[0], "valid": expected[1]}


@pytest.mark.parametrize(("response", "answer"), [
    ("<answer> 1 </answer> no, <answer> 2 </answer>", "2"),  # the last one
    ("<answer> 1 </answer>\nUser: another question", "1"),  # not only on the last line
    ("<answer> 1 </answer> <answer> 2", "1"),  # the last complete one
    ("<answer> 1 <answer> 2 </answer>", "2"),
    ("<answer> 1 </answer> stray </answer>", "1"),
    ("</answer> <answer>", None),
    ("<answer> 1", None),
    ("1 </answer>", None),
    ("", None),
])
def test_find_answer(response: str, answer: str | None) -> None:
    assert arithmetic.find_answer(response) == answer


def test_values_are_exact_fractions() -> None:
    # (8 / 3) * 6 = 16 goes through a fraction; 5 + 1/999999 is not 5.
    assert arithmetic.evaluate("8 / 3 * 6") == (Fraction(16), [8, 3, 6])
    assert not arithmetic.solves("5 + 1 / 999999", [5, 1, 999999], 5)


trees = st.recursive(
    st.integers(0, 99),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner),
    max_leaves=6,
)


def leaves(tree: Any) -> list[int]:
    return [tree] if isinstance(tree, int) else leaves(tree[0]) + leaves(tree[2])


def text_of(tree: Any) -> str:
    return str(tree) if isinstance(tree, int) else f"({text_of(tree[0])} {tree[1]} {text_of(tree[2])})"


def value_of(tree: Any) -> Fraction:
    if isinstance(tree, int):
        return Fraction(tree)
    left, sign, right = value_of(tree[0]), tree[1], value_of(tree[2])
    return {"+": left + right, "-": left - right, "*": left * right}[sign] if sign != "/" else left / right


@given(trees)
def test_random_trees_evaluate_as_fractions_do(tree: Any) -> None:
    try:
        expected: tuple[Fraction, list[int]] | None = (value_of(tree), leaves(tree))
    except ZeroDivisionError:
        expected = None
    assert arithmetic.evaluate(text_of(tree)) == expected


@given(trees)
def test_a_solution_stops_being_one_when_a_number_is_missing_or_changed(tree: Any) -> None:
    result = arithmetic.evaluate(text_of(tree))
    if result is None or result[0].denominator != 1:
        return
    target, numbers = int(result[0]), leaves(tree)
    assert arithmetic.solves(text_of(tree), numbers[::-1], target)
    assert not arithmetic.solves(text_of(tree), numbers[1:], target)
    assert not arithmetic.solves(text_of(tree), [numbers[0] + 1, *numbers[1:]], target)
    assert not arithmetic.solves(text_of(tree), numbers, target + 1)


@given(st.text() | st.text(alphabet="0123456789+-*/(). \n<answer>_e=\0", max_size=300))
def test_never_raises_on_any_text(text: str) -> None:
    assert countdown.score(wrapped(text), META)["valid"] in (0, 1)
    countdown.score(text, META)
    arithmetic.evaluate(text)


HOSTILE = {
    "a million digits": "9" * 1_000_000,
    "a million letters": "x" * 1_000_000,
    "a million opening tags": "<answer>" * 125_000,
    "a million closing tags": "</answer>" * 110_000,
    "a hundred thousand parentheses": "(" * 100_000 + "1" + ")" * 100_000,
    "unbalanced parentheses": "(" * 250,
    "parentheses within the limit": "(" * 120 + "1" + ")" * 120,
    "a long sum": "+".join("1" for _ in range(128)),
    "a long chain of signs": "-" * 250 + "1",
    "a tower of powers": "9**9**9**9**9",
    "a long product": "*".join(["999999999"] * 25),
    "huge integer": "9" * 250,
    "a call": "__import__('os').system('true')",
    "a name": "TARGET",
    "a comparison": "22 == 22",
    "a lambda": "(lambda: 22)()",
    "a walrus": "(x := 22)",
    "unicode digits": "\u0663 + \u0667 + \u0661\u0662",
    "full-width digits": "\uff13 + \uff17 + \uff11\uff12",
    "superscript": "3\u00b2",
    "null bytes": "3 + 7 + 12\0",
    "lone surrogate": "3 + 7 + 12\ud800",
    "underscores": "3 + 7 + 1_2",
    "exponent": "22e0",
    "hexadecimal": "0x16",
    "complex": "22j",
    "line continuation": "3 + 7 \\\n + 12",
    "comment": "3 + 7 + 12 # yes",
    "tuple": "(3, 7, 12)",
    "walk of tuples": "3 + 7 + 12,",
    "call of a number": "3(7)(12)",
    "matrix product": "3 @ 7",
    "modulo": "12 % 7 + 3",
    "shift": "3 << 7",
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_answers_are_wrong_quickly(name: str) -> None:
    seconds = []
    for _ in range(3):
        start = time.process_time()
        assert not countdown.score(wrapped(HOSTILE[name]), META)["valid"]
        assert not countdown.score(HOSTILE[name], META)["valid"]
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.05  # the worst takes about a millisecond


def eval_checker(answer: str, numbers: list[int], target: int) -> bool:
    """The public checker: Python's eval behind a character filter, numbers by regular expression."""
    if sorted(map(int, re.findall(r"\d+", answer))) != sorted(numbers):
        return False
    if not re.match(r"^[\d+\-*/().\s]+$", answer):
        return False
    try:
        return bool(abs(eval(answer, {"__builtins__": None}, {}) - target) < 1e-5)
    except (SyntaxError, TypeError, ZeroDivisionError):
        return False


def set_checker(answer: str, numbers: list[int], target: int) -> bool:
    """Forgets how often a number may be used."""
    result = arithmetic.evaluate(answer)
    return result is not None and result[0] == target and set(result[1]) == set(numbers)


def value_checker(answer: str, numbers: list[int], target: int) -> bool:
    """Looks at the value alone."""
    result = arithmetic.evaluate(answer)
    return result is not None and result[0] == target


@pytest.mark.parametrize(("mutant", "answer", "numbers", "target"), [
    (eval_checker, "2 ** 3", [2, 3], 8),
    (eval_checker, "7 // 2", [7, 2], 3),
    (eval_checker, "1.5 * 2", [1, 5, 2], 3),
    (eval_checker, "-3 + 25", [3, 25], 22),
    (eval_checker, "+3 + 19", [3, 19], 22),
    (eval_checker, "5 + 1 / 999999", [5, 1, 999999], 5),
    (set_checker, "3 + 3 + 16", [3, 16], 22),
    (set_checker, "6 + 16", [6, 6, 16], 22),
    (value_checker, "11 + 11", [3, 7, 12], 22),
    (value_checker, "22", [22, 1], 22),
])
def test_wrong_checkers_accept_what_ours_refuses(mutant: Any, answer: str, numbers: list[int], target: int) -> None:
    assert mutant(answer, numbers, target)
    assert not arithmetic.solves(answer, numbers, target)
