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

Every term is an array over bootstrap draws [D] (length 1 where nothing is random), and a check one of truth values: 1
where it holds, 0 where it does not, 1/2 where a tie speaks for neither side, NaN where a term is no number (0/0). It is
supported when it holds in at least 0.95 of the draws, contradicted when it fails in as many, not checkable when no draw
tells anything, else inconclusive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np

from eval import verdicts
from eval.derived import signed_geometric_mean
from eval.statistics import Floats, probability
from rlfamily.errors import UserError, nearest

Holds = Floats
TIE = 0.5
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
            held = self.check(check)
        except Unavailable as missing:
            return Verdict(missing.word, str(missing))
        if np.isnan(held).all():
            return Verdict(verdicts.NOT_CHECKABLE, "it asks for a quotient by zero, or another that is no number")
        share = probability(held == 1)
        failed = probability(held == 0) >= SURE
        return Verdict(verdicts.SUPPORTED if share >= SURE else
                       verdicts.CONTRADICTED if failed else verdicts.INCONCLUSIVE, share=share)

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
            held, least = self._held(check["count"]), self.term(check["more_than"])
            some, most = (held == 1).sum(axis=0), (held != 0).sum(axis=0)
            unknown = np.where((some <= least) & (most > least), np.isnan(held).any(axis=0), False)
            return np.where(unknown, np.nan, _truth(some > least, most <= least, least))
        if not isinstance(check, dict) or len(check) != 1:
            raise self._error(f"a check has one operation, got {sorted(check) if isinstance(check, dict) else check!r}")
        (name, inner), = check.items()
        if name == "all":
            return _every([self.check(part) for part in inner])
        if name == "any":
            return 1 - _every([1 - self.check(part) for part in inner])
        if name == "not":
            return 1 - self.check(inner)
        if name == "reports":
            return np.array([float(any(inner["like"] in one for one in self.side.metrics(inner["table"])))])
        if name == "second_underlined":
            return np.array([float(self.side.second_underlined(inner["table"]))])
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
        held = self._held(inner)
        return np.where(np.isnan(held).any(axis=0), np.nan, (held == 1).sum(axis=0))

    def _held(self, inner: Any) -> Holds:
        """Truth values [combinations, D] of a counted check."""
        if not isinstance(inner, dict):
            raise self._error(f"count needs each and check, got {inner!r}")
        return np.stack(np.broadcast_arrays(*(one.check(inner["check"]) for one in self._each(inner, "check"))))

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
    return np.asarray(np.minimum.reduce(np.broadcast_arrays(*held)))


def _truth(holds: Any, fails: Any, *terms: Floats) -> Holds:
    """1 where it holds, 0 where it fails, else a tie; NaN where a term is no number."""
    truth = np.where(holds, 1.0, np.where(fails, 0.0, TIE))
    return np.asarray(truth + sum((0.0 * np.where(np.isnan(term), np.nan, 0.0) for term in terms), 0.0))


def _above(a: Floats, b: Floats) -> Holds:
    return _truth(a > b, a < b, a, b)


def _ratio(a: Floats, b: Floats) -> Floats:
    return np.divide(a, b, out=np.full(np.broadcast_shapes(a.shape, b.shape), np.nan), where=b != 0)


def _equal(a: Floats, b: Floats) -> Holds:
    same = np.isclose(a, b, rtol=1e-12)
    return _truth(same, ~same, a, b)


def _near(distance: Floats, within: Floats) -> Holds:
    return _truth(distance <= within, distance > within, distance, within)


def _over(operation: Callable[..., Any]) -> Callable[..., Floats]:
    """An operation over the first axis, for terms of different lengths."""
    return lambda *parts: np.asarray(operation(np.stack(np.broadcast_arrays(*parts)), axis=0), dtype=float)


ARITHMETIC: dict[str, Callable[..., Floats]] = {
    "exp": np.exp,
    "log": lambda a: np.log(a, out=np.full_like(a, np.nan), where=a > 0),
    "difference": lambda a, b: a - b,
    "ratio": _ratio,
    "product": _over(np.prod),
    "sum": _over(np.sum),
    "mean": _over(np.mean),
    "max": _over(np.max),
    "min": _over(np.min),
    "signed_geometric_mean": lambda *parts: signed_geometric_mean(np.stack(np.broadcast_arrays(*parts))),
}
CHECKS: dict[str, Callable[..., Holds]] = {
    "greatest": lambda first, *others: _every([_above(first, other) for other in others]),
    "least": lambda first, *others: _every([_above(other, first) for other in others]),
    "greater": _above,
    "close": lambda of, to, within: _near(np.abs(of - to), within),
    "integer": lambda of, within: _near(np.abs(of - np.round(of)), within),
    "member": lambda first, *others: 1 - _every([1 - _equal(first, other) for other in others]),
    "same_sign": lambda a, b: _equal(np.sign(a), np.sign(b)),
}
