"""The operations that a claim is checked with. Nothing is ever `eval`ed.

A check is a mapping with one operation; its terms are numbers, row names (the other coordinates come from what is bound
around the term, then from the claim's `read`), or mappings:

    {table:, model:, row:, column:, metric:}    one number of a table; what is left out comes from outside
    {stated: name}                     a number from the paper's prose, listed under `stated` with its section
    {exp: t} {log: t} {ratio: [a, b]} {difference: [a, b]}
    {product: ts} {sum: ts} {mean: ts} {max: ts} {min: ts} {signed_geometric_mean: ts}
                                       over terms: a list, or {each:, except:, of: term}
    {count: {each:, except:, check:}}  the number of combinations at which a check holds

    greatest: [a, b, ..]  least: [a, b, ..]     the first is beyond every other one
    greater: [a, b]                             a > b
    close: {of: a, to: b, within: t}            |a - b| <= t
    integer: {of: a, within: t}                 the distance to the nearest integer is at most t
    member: [a, b, ..]                          the first equals one of the others
    same_sign: [a, b]
    reports: {table:, like: text}               the published table has a metric whose name contains the text
    second_underlined: {table:}                 in every column of the printed table just the second best is underlined
    all: [..]  any: [..]  not: check
    each: {row: [..], column: [..], ..}, except: [{..}, ..], check:     holds at every combination
    count: {each:, except:, check:}, more_than: n                       holds at more than n combinations

`each` binds coordinates: inside, they fill what a term leaves out, and "$row" stands for the row at hand (so do $model,
$column, $metric and $table). `except` leaves out the combinations that have all the values of one of its entries.

Every term is an array over bootstrap draws [D] (length 1 where nothing is random), so a check is the share of draws
in which it holds: at least 0.95 supported, at most 0.05 contradicted, else inconclusive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval import verdicts
from eval.derived import signed_geometric_mean
from eval.statistics import Floats, probability
from rlfamily.errors import UserError, nearest

Holds = NDArray[np.bool_]
At = dict[str, str]
SURE = 0.95
COORDINATES = ("table", "model", "row", "column", "metric")


@dataclass(frozen=True)
class Verdict:
    """The word, why (when it is not a plain yes or no), and the share of draws in which the check held."""

    word: str
    reason: str = ""
    share: float | None = None


class Unavailable(Exception):
    """A number a check needs is not there; `word` is the verdict that follows from it."""

    def __init__(self, word: str, reason: str) -> None:
        super().__init__(reason)
        self.word = word


@dataclass(frozen=True)
class Side:
    """Where terms get their numbers: `number` of a table coordinate, `metrics` of a table; `second_underlined` tells
    whether a printed table underlines its second best everywhere."""

    number: Callable[[At], Floats]
    metrics: Callable[[str], list[str]]
    second_underlined: Callable[[str], bool]


@dataclass(frozen=True)
class Evaluator:
    """Evaluates the checks of one claim on one side. `read` and `bound` give the coordinates a term leaves out."""

    name: str
    side: Side
    read: At
    stated: dict[str, float]
    bound: At = field(default_factory=dict)

    def verdict(self, check: dict[str, Any] | str | None) -> Verdict:
        """Turn a check, or the reason why there is none, into a verdict. Raises UserError when it makes no sense."""
        if check is None or isinstance(check, str):
            return Verdict(verdicts.NOT_CHECKABLE, check or "")
        try:
            share = probability(self.check(check))
        except Unavailable as missing:
            return Verdict(missing.word, str(missing))
        if share >= SURE:
            return Verdict(verdicts.SUPPORTED, share=share)
        return Verdict(verdicts.CONTRADICTED if share <= 1 - SURE else verdicts.INCONCLUSIVE, share=share)

    def term(self, term: Any) -> Floats:
        """Array of one term. Raises Unavailable when a number is missing, UserError when the term makes no sense."""
        if isinstance(term, int | float) and not isinstance(term, bool):
            return np.array([float(term)])
        if isinstance(term, str):
            return self._number({"row": term})
        if isinstance(term, dict) and len(term) == 1:
            (name, inner), = term.items()
            if name == "stated":
                return np.array([self._stated(inner)])
            if name == "count":
                return self._count(inner)
            if name in ARITHMETIC:
                return ARITHMETIC[name](*self._terms(inner))
        if isinstance(term, dict) and term and set(term) <= set(COORDINATES):
            return self._number(term)
        raise self._error(f"{term!r} is neither a number, a row, nor one of {sorted([*ARITHMETIC, 'count'])}")

    def check(self, check: Any) -> Holds:
        """Array of truth values of a check. Raises like `term`."""
        if isinstance(check, dict) and "each" in check:
            return _every([one.check(check["check"]) for one in self._each(check, "check")])
        if isinstance(check, dict) and set(check) == {"count", "more_than"}:
            return np.asarray(self._count(check["count"]) > self.term(check["more_than"]))
        if not isinstance(check, dict) or len(check) != 1:
            raise self._error(f"a check has one operation, got {sorted(check) if isinstance(check, dict) else check!r}")
        (name, inner), = check.items()
        if name == "all":
            return _every([self.check(part) for part in inner])
        if name == "any":
            return np.logical_or.reduce(np.broadcast_arrays(*(self.check(part) for part in inner)))
        if name == "not":
            return ~self.check(inner)
        if name == "reports":
            return np.array([any(inner["like"] in metric for metric in self.side.metrics(inner["table"]))])
        if name == "second_underlined":
            return np.array([self.side.second_underlined(inner["table"])])
        if name not in CHECKS:
            known = [*CHECKS, "all", "any", "not", "reports", "second_underlined", "each", "count"]
            raise self._error(f"no operation '{name}'{nearest(name, known)}")
        if isinstance(inner, dict):
            return CHECKS[name](**{key: self.term(part) for key, part in inner.items()})
        return CHECKS[name](*(self.term(part) for part in inner))

    def _terms(self, inner: Any) -> list[Floats]:
        if isinstance(inner, dict) and "each" in inner:
            return [one.term(inner["of"]) for one in self._each(inner, "of")]
        return [self.term(part) for part in (inner if isinstance(inner, list) else [inner])]

    def _count(self, inner: Any) -> Floats:
        if not isinstance(inner, dict):
            raise self._error(f"count needs each and check, got {inner!r}")
        held = [one.check(inner["check"]) for one in self._each(inner, "check")]
        return np.asarray(np.sum(np.broadcast_arrays(*held), axis=0), dtype=float)

    def _each(self, quantified: dict[str, Any], body: str) -> Iterator[Evaluator]:
        """An evaluator for each combination. Raises UserError for wrong keys and when no combination is left."""
        wrong = {*quantified} - {"each", "except", body} or {*quantified["each"]} - {*COORDINATES}
        if wrong or body not in quantified:
            raise self._error(f"each takes coordinates, except and {body}, got {sorted(wrong or quantified)}")
        values = {name: one if isinstance(one, list) else [one] for name, one in quantified["each"].items()}
        combinations = [dict(zip(values, chosen, strict=True)) for chosen in product(*values.values())]
        left = [one for one in combinations
                if not any(left_out.items() <= one.items() for left_out in quantified.get("except", []))]
        if not left or ("except" in quantified and len(left) == len(combinations)):
            raise self._error("each has no combination left" if not left else "except leaves nothing out")
        return (replace(self, bound={**self.bound, **one}) for one in left)

    def _number(self, at: At) -> Floats:
        outside = {**self.read, **self.bound}
        return self.side.number({**outside, **{key: self._filled(value) for key, value in at.items()}})

    def _filled(self, value: str) -> str:
        """A coordinate, with "$row" and its like replaced by what is bound."""
        if not value.startswith("$"):
            return value
        if value[1:] not in self.bound:
            raise self._error(f"nothing binds {value}{nearest(value[1:], self.bound)}")
        return self.bound[value[1:]]

    def _stated(self, name: str) -> float:
        if name not in self.stated:
            raise self._error(f"no stated number '{name}'{nearest(name, self.stated)}")
        return self.stated[name]

    def _error(self, message: str) -> UserError:
        return UserError(f"claim {self.name}: {message}")


def _every(held: list[Holds]) -> Holds:
    return np.asarray(np.logical_and.reduce(np.broadcast_arrays(*held)))


def _over(operation: Callable[..., Any]) -> Callable[..., Floats]:
    """An operation over the first axis, for terms of different lengths."""
    return lambda *parts: np.asarray(operation(np.stack(np.broadcast_arrays(*parts)), axis=0), dtype=float)


ARITHMETIC: dict[str, Callable[..., Floats]] = {
    "exp": np.exp,
    "log": np.log,
    "difference": lambda a, b: a - b,
    "ratio": lambda a, b: a / b,
    "product": _over(np.prod),
    "sum": _over(np.sum),
    "mean": _over(np.mean),
    "max": _over(np.max),
    "min": _over(np.min),
    "signed_geometric_mean": lambda *parts: signed_geometric_mean(np.stack(np.broadcast_arrays(*parts))),
}
CHECKS: dict[str, Callable[..., Holds]] = {
    "greatest": lambda first, *others: _every([first > other for other in others]),
    "least": lambda first, *others: _every([first < other for other in others]),
    "greater": lambda a, b: a > b,
    "close": lambda of, to, within: np.abs(of - to) <= within,
    "integer": lambda of, within: np.abs(of - np.round(of)) <= within,
    "member": lambda first, *others: np.logical_or.reduce(
        np.broadcast_arrays(*(np.isclose(first, other, rtol=1e-12) for other in others))),
    "same_sign": lambda a, b: np.sign(a) == np.sign(b),
}
