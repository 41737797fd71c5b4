"""A table as data: its entries, which of them are best beyond doubt, its claims and its ledger; and the csv of it."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from eval import claims, deviations, verdicts
from eval.artifacts import Results
from eval.claims import Claim, ClaimResult, Unavailable
from eval.deviations import Deviation
from eval.entries import Entry, entries
from eval.statistics import probability
from rlfamily.experiment import Experiment, Metric

COLUMNS = ["table_id", "model", "method", "task_or_benchmark", "metric", "published", "published_std", "reproduced",
           "ci_low", "ci_high", "n", "seeds", "scale", "verdict", "run_ids", "note"]
BEST = 0.95
BANNER = ("Stand-in models and data (scale=tiny): absolute values are not comparable with the paper's; "
          "orderings and claims are.")


@dataclass(frozen=True)
class TableFrame:
    """Everything printed about one experiment. `best` holds the positions in `entries` that survive the comparison."""

    name: str
    experiment: Experiment
    scale: str
    entries: tuple[Entry, ...]
    best: frozenset[int]
    claims: tuple[ClaimResult, ...]
    deviations: tuple[Deviation, ...]

    @property
    def banner(self) -> str:
        """What a reader must know first; empty at paper scale."""
        runs_stand_ins = self.scale == "tiny" and self.experiment.kind != "settings"
        return BANNER if runs_stand_ins else ""

    @property
    def panels(self) -> list[tuple[str, Metric]]:
        """(column, shown metric), in the order the paper's columns are read."""
        return [(column, metric) for column in self.experiment.columns
                for metric in self.experiment.metrics if metric.shown]

    def at(self, row: str, column: str, metric: str) -> tuple[Entry, bool]:
        """The entry at a place, and whether it is best beyond doubt. Raises KeyError when there is none."""
        for position, entry in enumerate(self.entries):
            if (entry.row, entry.column, entry.metric.name) == (row, column, metric):
                return entry, position in self.best
        raise KeyError((row, column, metric))

    @property
    def holes(self) -> list[Entry]:
        """Shown entries without a number."""
        return [entry for entry in self.entries if entry.hole and entry.metric.shown]


@dataclass
class Book:
    """Makes the tables of a results folder; entries are computed once and shared by the claims of every table."""

    results: Results
    _entries: dict[str, list[Entry]] = field(default_factory=dict)

    @cached_property
    def ledger(self) -> list[Deviation]:
        """Every deviation there is."""
        return deviations.load(self.results.experiments / "deviations")

    @cached_property
    def known_claims(self) -> list[Claim]:
        """Every claim there is."""
        return claims.load(self.results.experiments / "claims")

    def entries(self, name: str) -> list[Entry]:
        """Entries of an experiment. Raises UserError when it has no index."""
        if name not in self._entries:
            self._entries[name] = entries(self.results, *self.results.index(name))
        return self._entries[name]

    def frame(self, name: str) -> TableFrame:
        """The whole table of one experiment. Raises UserError when it has no index."""
        index, experiment = self.results.index(name)
        made = self.entries(name)
        return TableFrame(name, experiment, index.scale, tuple(made), best(made), tuple(self.claims(name, index.scale)),
                          tuple(deviations.touching(self.ledger, name, index.scale)))

    def claims(self, name: str, scale: str) -> list[ClaimResult]:
        """Every claim that concerns a table, evaluated at this scale."""

        def tables(other: str) -> list[Entry]:
            if other not in self.results.names():
                raise Unavailable(verdicts.NOT_RUN, f"{other} has no results yet")
            there = self.results.index(other)[0].scale
            if there != scale:
                raise Unavailable(verdicts.NOT_RUN, f"{other} was run at scale {there}")
            return self.entries(other)

        published, reproduced = claims.published_side(self.results), claims.reproduced_side(tables)
        return [claims.evaluate(claim, published, reproduced)
                for claim in self.known_claims if name in claim.tables]


def best(made: list[Entry]) -> frozenset[int]:
    """Positions of the entries that beat every other row of their column and metric in 95 % of the paired draws."""
    groups: dict[tuple[str, str], list[int]] = {}
    for position, entry in enumerate(made):
        if entry.draws.size and entry.metric.better:
            groups.setdefault((entry.column, entry.metric.name), []).append(position)
    winners = set()
    for group in groups.values():
        for position in group:
            rivals = [other for other in group if other != position]
            if rivals and all(_beats(made[position], made[rival]) >= BEST for rival in rivals):
                winners.add(position)
    return frozenset(winners)


def _beats(entry: Entry, rival: Entry) -> float:
    difference = entry.draws - rival.draws
    return probability(difference > 0 if entry.metric.better == "higher" else difference < 0)


def exact(value: float | str | None) -> str:
    """A number for the csv: eight significant digits, more than anything here resolves; text as it is; "" for none."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    return format(value, ".8g") if isinstance(value, float) else value


def records(frame: TableFrame) -> list[dict[str, str]]:
    """Rows of the csv, one an entry (those only claims use are marked in `note`), keys as in COLUMNS."""
    return [_record(frame, entry) for entry in frame.entries]


def _record(frame: TableFrame, entry: Entry) -> dict[str, str]:
    published = entry.published
    notes = [frame.experiment.rows[entry.row].note, published.note if published else "", entry.note,
             "" if entry.metric.shown else "used by claims only"]
    return {
        "table_id": frame.name,
        "model": frame.experiment.model,
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
    """Comma-separated text with a header and unix line ends."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
