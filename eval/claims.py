"""The papers' claims as data (experiments/claims/*.yaml), each checked on the published and on the reproduced numbers.

A check is a mapping with one operation; its terms are numbers, row names (with the claim's `read` giving table, column
and metric), or mappings:

    {table:, row:, column:, metric:}   one number of a table; what is left out comes from `read`
    {stated: name}                     a number from the paper's prose, listed under `stated` with its section
    {exp: t} {log: t} {product: [..]} {ratio: [a, b]} {difference: [a, b]}

    greatest: [a, b, ..]  least: [a, b, ..]     the first is beyond every other one
    greater: [a, b]                             a > b
    close: {of: a, to: b, within: t}            |a - b| <= t
    integer: {of: a, within: t}                 the distance to the nearest integer is at most t
    member: [a, b, ..]                          the first equals one of the others
    same_sign: [a, b]
    reports: {table:, like: text}               the published table has a metric whose name contains the text
    all: [..]  any: [..]  not: check

Every term is an array over bootstrap draws [D] (length 1 where nothing is random), so a check is the share of draws
in which it holds: at least 0.95 supported, at most 0.05 contradicted, else inconclusive. Nothing is ever `eval`ed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from eval import verdicts
from eval.artifacts import Results, read_items
from eval.entries import Entry
from eval.statistics import Floats, probability
from rlfamily.errors import UserError, nearest

Holds = NDArray[np.bool_]
SURE = 0.95


class Part(BaseModel):
    """Closed and frozen: a misspelt key in a claim is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Stated(Part):
    """A number the paper gives in prose."""

    value: float
    source: str


class Claim(Part):
    """One checkable statement of a paper.

    `check` is evaluated on both sides; `published` or `reproduced` replaces it on that side, by another check or by the
    reason (text) why that side cannot be checked. `also` holds further checks on the reproduced numbers, by name, for
    protocols the paper did not run.
    """

    id: str
    paper: str
    where: str
    tables: list[str]
    says: str
    read: dict[str, str] = {}
    stated: dict[str, Stated] = {}
    check: dict[str, Any] | None = None
    published: dict[str, Any] | str | None = None
    reproduced: dict[str, Any] | str | None = None
    also: dict[str, dict[str, Any]] = {}
    note: str = ""


@dataclass(frozen=True)
class Verdict:
    """The word, why (when it is not a plain yes or no), and the share of draws in which the check held."""

    word: str
    reason: str = ""
    share: float | None = None


@dataclass(frozen=True)
class ClaimResult:
    """A claim with its verdict on the published numbers, on the reproduced ones, and under further protocols."""

    claim: Claim
    published: Verdict
    reproduced: Verdict
    also: dict[str, Verdict]


class Unavailable(Exception):
    """A number a check needs is not there; `word` is the verdict that follows from it."""

    def __init__(self, word: str, reason: str) -> None:
        super().__init__(reason)
        self.word = word


Lookup = Callable[[dict[str, str]], Floats]
Columns = Callable[[str], list[str]]


@dataclass(frozen=True)
class Side:
    """Where terms get their numbers: `number` of a table coordinate, `metrics` of a table."""

    number: Lookup
    metrics: Columns


@dataclass(frozen=True)
class Evaluator:
    """Evaluates the checks of one claim on one side."""

    claim: Claim
    side: Side

    def term(self, term: Any) -> Floats:
        """Array of one term. Raises Unavailable when a number is missing, UserError when the term makes no sense."""
        if isinstance(term, int | float) and not isinstance(term, bool):
            return np.array([float(term)])
        if isinstance(term, str):
            return self.side.number({**self.claim.read, "row": term})
        if isinstance(term, dict) and len(term) == 1:
            (name, inner), = term.items()
            if name == "stated":
                return np.array([self._stated(inner)])
            if name in ARITHMETIC:
                parts = inner if isinstance(inner, list) else [inner]
                return ARITHMETIC[name](*(self.term(part) for part in parts))
        if isinstance(term, dict) and "row" in term and set(term) <= COORDINATES:
            return self.side.number({**self.claim.read, **term})
        raise UserError(f"claim {self.claim.id}: {term!r} is neither a number, a row, nor one of {sorted(ARITHMETIC)}")

    def _stated(self, name: str) -> float:
        if name not in self.claim.stated:
            raise UserError(f"claim {self.claim.id}: no stated number '{name}'{nearest(name, self.claim.stated)}")
        return self.claim.stated[name].value

    def check(self, check: dict[str, Any]) -> Holds:
        """Array of truth values of a check. Raises like `term`."""
        if len(check) != 1:
            raise UserError(f"claim {self.claim.id}: a check has one operation, got {sorted(check)}")
        (name, inner), = check.items()
        if name == "all":
            return np.logical_and.reduce(np.broadcast_arrays(*(self.check(part) for part in inner)))
        if name == "any":
            return np.logical_or.reduce(np.broadcast_arrays(*(self.check(part) for part in inner)))
        if name == "not":
            return ~self.check(inner)
        if name == "reports":
            return np.array([any(inner["like"] in metric for metric in self.side.metrics(inner["table"]))])
        if name not in CHECKS:
            known = [*CHECKS, "all", "any", "not", "reports"]
            raise UserError(f"claim {self.claim.id}: no operation '{name}'{nearest(name, known)}")
        if isinstance(inner, dict):
            return CHECKS[name](**{key: self.term(part) for key, part in inner.items()})
        return CHECKS[name](*(self.term(part) for part in inner))

    def verdict(self, check: dict[str, Any] | str | None) -> Verdict:
        """Turn a check, or the reason why there is none, into a verdict."""
        if check is None or isinstance(check, str):
            return Verdict(verdicts.NOT_CHECKABLE, check or "")
        try:
            share = probability(self.check(check))
        except Unavailable as missing:
            return Verdict(missing.word, str(missing))
        if share >= SURE:
            return Verdict(verdicts.SUPPORTED, share=share)
        return Verdict(verdicts.CONTRADICTED if share <= 1 - SURE else verdicts.INCONCLUSIVE, share=share)


COORDINATES = {"table", "row", "column", "metric"}
ARITHMETIC: dict[str, Callable[..., Floats]] = {
    "exp": np.exp,
    "log": np.log,
    "difference": lambda a, b: a - b,
    "ratio": lambda a, b: a / b,
    "product": lambda *parts: np.prod(np.broadcast_arrays(*parts), axis=0),
}
CHECKS: dict[str, Callable[..., Holds]] = {
    "greatest": lambda first, *others: np.logical_and.reduce(
        np.broadcast_arrays(*(first > other for other in others))),
    "least": lambda first, *others: np.logical_and.reduce(
        np.broadcast_arrays(*(first < other for other in others))),
    "greater": lambda a, b: a > b,
    "close": lambda of, to, within: np.abs(of - to) <= within,
    "integer": lambda of, within: np.abs(of - np.round(of)) <= within,
    "member": lambda first, *others: np.logical_or.reduce(
        np.broadcast_arrays(*(np.isclose(first, other, rtol=1e-12) for other in others))),
    "same_sign": lambda a, b: np.sign(a) == np.sign(b),
}


def load(folder: Path) -> list[Claim]:
    """Read every claim of experiments/claims/*.yaml. Raises UserError (one line) on a wrong or repeated claim."""
    claims = read_items(folder, Claim)
    names = [claim.id for claim in claims]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(f"{folder}: claim '{repeated[0]}' is there twice: rename one")
    return claims


def published_side(results: Results) -> Side:
    """Terms read from experiments/published/<table>.csv, by the labels the paper prints."""

    def number(at: dict[str, str]) -> Floats:
        where = {"method": at["row"], "metric": at["metric"]}
        if "column" in at:
            where["task_or_benchmark"] = at["column"]
        path = results.experiments / "published" / f"{at['table']}.csv"
        found = results.published(path.name, **where) if path.is_file() else None
        if found is None:
            raise Unavailable(verdicts.NOT_CHECKABLE, f"the paper prints no {at['metric']} of {at['row']}")
        return np.array([float(found.value)])

    def metrics(table: str) -> list[str]:
        return [row["metric"] for row in results.published_rows(f"{table}.csv")]

    return Side(number, metrics)


def reproduced_side(tables: Callable[[str], list[Entry]]) -> Side:
    """Terms read from the entries of our tables: `tables(name)` gives them, or raises Unavailable."""

    def number(at: dict[str, str]) -> Floats:
        found = [entry for entry in tables(at["table"])
                 if entry.row == at["row"] and entry.metric.name == at["metric"]
                 and at.get("column", entry.column) == entry.column]
        place = f"{at['metric']} of {at['row']} in {at['table']}"
        if len(found) != 1:
            raise Unavailable(verdicts.NOT_RUN, f"{place}: {'several columns' if found else 'no such number'}")
        entry = found[0]
        if not isinstance(entry.value, float):
            raise Unavailable(verdicts.NOT_RUN, f"{place}: {entry.note or entry.hole}")
        return entry.draws if entry.draws.size else np.array([entry.value])

    def metrics(table: str) -> list[str]:
        return [entry.metric.name for entry in tables(table)]

    return Side(number, metrics)


def evaluate(claim: Claim, published: Side, reproduced: Side) -> ClaimResult:
    """Both verdicts of a claim, and those under further protocols."""
    ours = Evaluator(claim, reproduced)
    return ClaimResult(
        claim,
        Evaluator(claim, published).verdict(claim.check if claim.published is None else claim.published),
        ours.verdict(claim.check if claim.reproduced is None else claim.reproduced),
        {name: ours.verdict(check) for name, check in claim.also.items()},
    )
