"""A table as data: its entries, which are best or second best beyond doubt, its claims and its ledger; and its csv."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from eval import agreement, claims, deviations, engines, prompts, verdicts
from eval.artifacts import Archive
from eval.checks import Unavailable
from eval.claims import Claim, ClaimResult
from eval.derived import derived, watched
from eval.deviations import Deviation
from eval.entries import Entry, entries
from eval.statistics import probability
from eval.values import one_line, printed
from rlfamily.errors import UserError
from rlfamily.experiment import Experiment
from rlfamily.quantities import Quantity
from rlfamily.variants import name_of

COLUMNS = ["table_id", "model", "method", "task_or_benchmark", "metric", "published", "published_std", "reproduced",
           "ci_low", "ci_high", "n", "seeds", "scale", "verdict", "run_ids", "note"]
BEST = 0.95
FORMULA = "=+-@\uff1d\uff0b\uff0d\uff20"  # what spreadsheets take for the start of one, wide forms as well
FIRST, SECOND = "best", "second"
BANNER = ("Stand-in models and data (scale=tiny): absolute values are not comparable with the paper's; "
          "orderings and claims are.")


@dataclass(frozen=True)
class TableFrame:
    """Everything printed about one experiment. `ranks` holds, by position in `entries`, the marks that survive.

    `footnote` says what drew the responses, when it is not the usual engine, which rows had other prompts, and how far
    two judges agree.
    """

    name: str
    experiment: Experiment
    scale: str
    entries: tuple[Entry, ...]
    ranks: dict[int, str]
    claims: tuple[ClaimResult, ...]
    deviations: tuple[Deviation, ...]
    footnote: str

    @property
    def banner(self) -> str:
        """What a reader must know first; empty at paper scale."""
        runs_stand_ins = self.scale == "tiny" and self.experiment.kind not in ("settings", "theory")
        return BANNER if runs_stand_ins else ""

    @cached_property
    def panels(self) -> list[tuple[str, Quantity]]:
        """(column, shown quantity), in the order the paper's columns are read; without those that apply to no row."""
        applies = {(entry.column, entry.metric.name) for entry in self.entries
                   if entry.hole != verdicts.NOT_APPLICABLE or entry.published}
        read: list[tuple[str, Quantity]] = [(column, metric) for column in self.experiment.columns
                for metric in self.experiment.metrics if metric.shown]
        read += [(one.column, one.quantity) for one in self.experiment.derived if one.shown]
        return [(column, metric) for column, metric in read if (column, metric.name) in applies]

    @property
    def models(self) -> list[str]:
        """Models, in the experiment's order."""
        return list(self.experiment.backbones)

    @cached_property
    def rows(self) -> list[str]:
        """The rows this table has: all but optional ones that nobody asked for."""
        there = {entry.row for entry in self.entries}
        return [row for row in self.experiment.rows if row in there]

    @cached_property
    def _places(self) -> dict[tuple[str, str, str, str], int]:
        return {(one.model, one.row, one.column, one.metric.name): position
                for position, one in enumerate(self.entries)}

    def at(self, row: str, column: str, metric: str, model: str = "") -> tuple[Entry, str]:
        """The entry at a place, and its mark: "best", "second" or "". `model` may be left out where there is one.

        Raises KeyError when there is no such place.
        """
        position = self._places[model or self.models[0], row, column, metric]
        return self.entries[position], self.ranks.get(position, "")

    @property
    def holes(self) -> list[Entry]:
        """Shown entries without a number, those apart that can have none."""
        return [entry for entry in self.entries
                if entry.hole and entry.hole != verdicts.NOT_APPLICABLE and entry.metric.shown]


@dataclass
class Book:
    """Makes the tables of a results folder; entries are computed once and shared by the claims of every table."""

    archive: Archive
    _entries: dict[str, list[Entry]] = field(default_factory=dict)

    @cached_property
    def ledger(self) -> list[Deviation]:
        """Every deviation there is."""
        return deviations.load(self.archive.experiments / "deviations")

    @cached_property
    def known_claims(self) -> list[Claim]:
        """Every claim there is."""
        return claims.load(self.archive.experiments / "claims")

    def entries(self, name: str) -> list[Entry]:
        """Entries of an experiment. Raises UserError when it has no index."""
        if name not in self._entries:
            index, experiment = self.archive.index(name)
            made = derived(self.archive, index, experiment, entries(self.archive, index, experiment))
            self._entries[name] = watched(experiment, engines.warned(self.archive, index, made))
        return self._entries[name]

    def frame(self, name: str) -> TableFrame:
        """The whole table of one experiment. Raises UserError when it has no index."""
        index, experiment = self.archive.index(name)
        made = self.entries(name)
        return TableFrame(name, experiment, index.scale, tuple(made), ranks(made, experiment),
                          () if index.changes else tuple(self.claims(index.experiment, index.scale)),
                          tuple(deviations.touching(self.ledger, index.experiment, index.scale)),
                          " ".join(filter(None, (engines.footnote(self.archive, made),
                                                  prompts.footnote(self.archive, made),
                                                  agreement.footnote(self.archive, made)))))

    def claims(self, name: str, scale: str) -> list[ClaimResult]:
        """Every claim that concerns a table, evaluated at this scale on the tables that are made as their files say."""

        def tables(table: str) -> list[Entry]:
            other = name_of(table, scale, [])
            if other not in self.archive.names():
                raise Unavailable(verdicts.NOT_RUN, f"{other} has no results yet")
            try:
                there = self.archive.index(other)[0].scale
                if there != scale:
                    raise Unavailable(verdicts.NOT_RUN, f"{other} was run at scale {there}")
                return self.entries(other)
            except UserError as error:
                raise Unavailable(verdicts.NOT_RUN, f"{other} cannot be made: {error}") from error

        published, reproduced = claims.published_side(self.archive), claims.reproduced_side(tables)
        return [claims.evaluate(claim, published, reproduced)
                for claim in self.known_claims if name in claim.tables]


def ranks(made: list[Entry], experiment: Experiment) -> dict[int, str]:
    """Marks by position, in each model, column and metric: best beats every other row in 95 % of the paired draws.

    Second best beats every row but that one; without a best there is no second. Optional rows (variants, controls)
    do not compete.
    """
    groups: dict[tuple[str, str, str], list[int]] = {}
    for position, entry in enumerate(made):
        if entry.draws.size and entry.metric.better and not experiment.rows[entry.row].optional:
            groups.setdefault((entry.model, entry.column, entry.metric.name), []).append(position)
    marks: dict[int, str] = {}
    for group in groups.values():
        for mark in (FIRST, SECOND):
            rivals = {position: [other for other in group if other != position] for position in group}
            winner = next((position for position in group if rivals[position] and all(
                _beats(made[position], made[rival]) >= BEST for rival in rivals[position])), None)
            if winner is None:
                break
            marks[winner] = mark
            group = rivals[winner]
    return marks


def _beats(entry: Entry, rival: Entry) -> float:
    difference = entry.draws - rival.draws
    return probability(difference > 0 if entry.metric.better == "higher" else difference < 0)


def exact(value: float | str | None) -> str:
    """A number for the csv: eight significant digits, more than anything here resolves; text as it is; "" for none."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    return format(value + 0.0, ".8g") if isinstance(value, float) else value  # + 0.0: no minus before a zero


def records(frame: TableFrame) -> list[dict[str, str]]:
    """Rows of the csv, one an entry (those only claims use are marked in `note`), keys as in COLUMNS."""
    return [_record(frame, entry) for entry in frame.entries]


def _record(frame: TableFrame, entry: Entry) -> dict[str, str]:
    published = entry.published
    notes = [frame.experiment.rows[entry.row].note, published.note if published else "", entry.note, entry.estimator,
             "" if entry.metric.shown else "used by claims only"]
    return {
        "table_id": frame.name,
        "model": entry.model,
        "method": entry.row,
        "task_or_benchmark": entry.column,
        "metric": entry.metric.name,
        "published": published.value if published else "",
        "published_std": published.std if published else "",
        "reproduced": exact(entry.value),
        "ci_low": exact(entry.low),
        "ci_high": exact(entry.high),
        "n": str(entry.n),
        "seeds": ",".join(map(str, entry.seeds)),
        "scale": frame.scale,
        "verdict": entry.verdict,
        "run_ids": " ".join(key for _, key in entry.runs),
        "note": "; ".join(note for note in notes if note),
    }


def to_csv(rows: list[dict[str, str]], columns: list[str]) -> str:
    """Comma-separated text with a header and unix line ends, one line a row; no cell is a formula to a spreadsheet."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: defused(one_line(value)) for name, value in row.items()} for row in rows)
    return text.getvalue()


def defused(cell: str) -> str:
    """A cell that spreadsheets show as it is: an apostrophe stands before what they would run; numbers stay numbers."""
    start = cell.lstrip(" '\u200b\ufeff\u00a0")[:1]
    return f"'{cell}" if start and start in FORMULA and math.isnan(printed(cell)) else cell
