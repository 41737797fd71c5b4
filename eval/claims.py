"""The papers' claims as data (experiments/claims/*.yaml), each checked on the published and on the reproduced numbers.

The operations of a check are those of eval/checks.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from eval import verdicts
from eval.artifacts import Archive, read_items
from eval.checks import At, Evaluator, Side, Unavailable, Verdict
from eval.entries import Entry
from eval.statistics import Floats
from eval.values import printed
from rlfamily.errors import UserError


class Stated(BaseModel, extra="forbid", frozen=True):
    """A number the paper gives in prose."""

    value: float
    source: str


class Claim(BaseModel, extra="forbid", frozen=True):
    """One checkable statement of a paper.

    `check` is evaluated on both sides; `published` or `reproduced` replaces it on that side, by another check or by the
    reason (text) why that side cannot be checked. `also` holds further checks on the reproduced numbers, by name, for
    protocols the paper did not run. `read` gives the coordinates that terms leave out.
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
class ClaimResult:
    """A claim with its verdict on the published numbers, on the reproduced ones, and under further protocols."""

    claim: Claim
    published: Verdict
    reproduced: Verdict
    also: dict[str, Verdict]


def load(folder: Path) -> list[Claim]:
    """Read every claim of experiments/claims/*.yaml. Raises UserError (one line) on a wrong or repeated claim."""
    claims = read_items(folder, Claim)
    names = [claim.id for claim in claims]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(f"{folder}: claim '{repeated[0]}' is there twice: rename one")
    return claims


def published_side(archive: Archive) -> Side:
    """Terms read from experiments/published/<table>.csv, by the labels the paper prints."""

    def number(at: At) -> Floats:
        where = {"method": at["row"], "metric": at["metric"]}
        where |= {"task_or_benchmark": at["column"]} if "column" in at else {}
        where |= {"model": at["model"]} if "model" in at else {}
        path = archive.experiments / "published" / f"{at['table']}.csv"
        found = archive.published(path.name, **where) if path.is_file() else None
        if found is None:
            raise Unavailable(verdicts.NOT_CHECKABLE, f"the paper prints no {at['metric']} of {at['row']}")
        return np.array([printed(found.value)])

    def metrics(table: str) -> list[str]:
        return [row["metric"] for row in archive.published_rows(f"{table}.csv")]

    return Side(number, metrics, lambda table: second_underlined(archive.published_rows(f"{table}.csv")))


def second_underlined(rows: list[dict[str, str]]) -> bool:
    """True when every column of a printed table underlines its second highest number, all of them, and nothing else."""
    columns: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    for row in rows:
        columns.setdefault((row["model"], row["task_or_benchmark"], row["metric"]), []).append(row)
    for column in columns.values():
        values = sorted({printed(row["value"]) for row in column}, reverse=True)
        if any((row["mark"] == "underline") != (printed(row["value"]) == values[1]) for row in column):
            return False
    return True


def reproduced_side(tables: Callable[[str], list[Entry]]) -> Side:
    """Terms read from the entries of our tables: `tables(name)` gives them, or raises Unavailable."""

    by_name: dict[str, dict[tuple[str, str], list[Entry]]] = {}

    def entries_of(at: At) -> list[Entry]:
        if at["table"] not in by_name:
            found: dict[tuple[str, str], list[Entry]] = {}
            for entry in tables(at["table"]):
                found.setdefault((entry.row, entry.metric.name), []).append(entry)
            by_name[at["table"]] = found
        return [entry for entry in by_name[at["table"]].get((at["row"], at["metric"]), [])
                if at.get("column", entry.column) == entry.column and at.get("model", entry.model) == entry.model]

    def number(at: At) -> Floats:
        found = entries_of(at)
        place = f"{at['metric']} of {at['row']} in {at['table']}"
        if len(found) != 1:
            raise Unavailable(verdicts.NOT_RUN, f"{place}: {'several columns' if found else 'no such number'}")
        entry = found[0]
        if not isinstance(entry.value, float):
            raise Unavailable(verdicts.NOT_RUN, f"{place}: {entry.note or entry.hole}")
        return entry.draws if entry.draws.size else np.array([entry.value])

    def metrics(table: str) -> list[str]:
        return [entry.metric.name for entry in tables(table)]

    def marked(table: str) -> bool:
        raise Unavailable(verdicts.NOT_CHECKABLE, "our marks are computed from the intervals")

    return Side(number, metrics, marked)


def evaluate(claim: Claim, published: Side, reproduced: Side) -> ClaimResult:
    """Both verdicts of a claim, and those under further protocols."""
    stated = {name: one.value for name, one in claim.stated.items()}
    printed, ours = (Evaluator(claim.id, side, claim.read, stated) for side in (published, reproduced))
    return ClaimResult(
        claim,
        printed.verdict(claim.check if claim.published is None else claim.published),
        ours.verdict(claim.check if claim.reproduced is None else claim.reproduced),
        {name: ours.verdict(check) for name, check in claim.also.items()},
    )
