"""Exact and safe checking of arithmetic answers written by a model. Nothing here calls `eval`.

Differences from the public Countdown checker (TinyZero, reward_score/countdown.py), each on purpose:

* It takes prompt and response, cuts at "Assistant:" and reads the last line only, so a newline after the answer
  loses it; we take the response alone and read the last complete <answer>...</answer> anywhere in it.
* It accepts whatever Python evaluates from the characters 0-9 + - * / ( ) . and blanks, and compares within
  1e-5: `2**3`, `7//2`, decimals ("1.5" passing for the numbers 1 and 5) and signs ("-3+25") all count. We
  allow the four operations between two integers and parentheses, and compare exact fractions.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Sequence
from fractions import Fraction

OPEN, CLOSE = "<answer>", "</answer>"
MAX_CHARACTERS = 256  # four numbers need about 40; the rest is room for blanks and parentheses
MAX_DEPTH = 32  # nesting of operations; n numbers need n - 1
MAX_MAGNITUDE = 10**18  # of every number, numerator and denominator

_ALLOWED = re.compile(r"[0-9+\-*/(). \t\r\n]+")  # TinyZero's characters, ASCII digits only
_OPERATIONS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


class _Refused(ValueError):
    """The text is not an expression we evaluate."""


def find_answer(response: str) -> str | None:
    """Return the stripped text of the last complete <answer>...</answer>, or None. Linear in the response."""
    start = response.rfind(OPEN, 0, max(response.rfind(CLOSE), 0))
    if start < 0:
        return None
    return response[start + len(OPEN):response.find(CLOSE, start)].strip()


def well_formed(answer: str) -> bool:
    """True when the answer is not empty, not longer than 256 characters, and has only allowed characters."""
    return len(answer) <= MAX_CHARACTERS and _ALLOWED.fullmatch(answer) is not None


def evaluate(expression: str) -> tuple[Fraction, list[int]] | None:
    """Return the exact value of an expression and its numbers from left to right.

    None when it is anything but non-negative integers joined by + - * / and parentheses, divides by zero,
    or exceeds a limit above. Never raises.
    """
    if not well_formed(expression):
        return None
    numbers: list[int] = []
    try:
        tree = ast.parse(" ".join(expression.split()), mode="eval")
        return _value(tree.body, numbers, MAX_DEPTH), numbers
    except (SyntaxError, ValueError, ZeroDivisionError, MemoryError, RecursionError):
        return None


def solves(answer: str, numbers: Sequence[int], target: int) -> bool:
    """True when the answer equals `target` exactly and uses each of `numbers` exactly once."""
    result = evaluate(answer)
    return result is not None and result[0] == target and sorted(result[1]) == sorted(numbers)


def _value(node: ast.expr, numbers: list[int], depth: int) -> Fraction:
    """Evaluate a syntax tree depth first, appending each number met. Raises _Refused or ZeroDivisionError."""
    if depth == 0:
        raise _Refused("nested too deeply")
    # `type(...) is int` and not isinstance: True is an int to Python.
    if isinstance(node, ast.Constant) and type(node.value) is int:
        numbers.append(node.value)
        return _bounded(Fraction(node.value))
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        left = _value(node.left, numbers, depth - 1)
        right = _value(node.right, numbers, depth - 1)
        return _bounded(_OPERATIONS[type(node.op)](left, right))
    raise _Refused("not an integer or one of + - * /")


def _bounded(value: Fraction) -> Fraction:
    """Refuse numbers so large that further arithmetic would be slow."""
    if max(abs(value.numerator), value.denominator) > MAX_MAGNITUDE:
        raise _Refused("number too large")
    return value
