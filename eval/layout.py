"""The human layout of a table, shared by markdown, LaTeX, HTML and the terminal.

A block a model, in it a line a method, across it the tasks with their metrics below them; digits rounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from eval import verdicts
from eval.checks import Verdict
from eval.entries import Entry
from eval.tables import FIRST, SECOND, TableFrame

SHORT = {verdicts.STAND_IN: "stand-in", verdicts.NOT_PUBLISHED: ""}


@dataclass(frozen=True)
class Shown:
    """One place of the table as text: what the paper prints, what we got, how sure, from where."""

    published: str
    value: str
    std: str
    half: str
    low: str
    high: str
    n: int
    verdict: str
    rank: str
    hole: str
    warnings: tuple[str, ...]
    mark: str
    runs: tuple[tuple[int, str], ...]

    @property
    def best(self) -> bool:
        """True when it is better than every other row, beyond doubt."""
        return self.rank == FIRST

    @property
    def second(self) -> bool:
        """True when only the best is better, beyond doubt."""
        return self.rank == SECOND

    @property
    def reproduced(self) -> str:
        """Value, spread over trials, and half the width of its interval; or the word for a hole."""
        if self.hole:
            return "–" if self.hole == verdicts.NOT_APPLICABLE else self.hole
        value = f"{self.value} ({self.std})" if self.std else self.value
        return f"{value} ± {self.half}" if self.half else value

    @property
    def aside(self) -> str:
        """Count and verdict, as far as they say something."""
        return ", ".join(part for part in (f"n={self.n}" if self.n else "", self.verdict) if part)


@dataclass(frozen=True)
class Line:
    """One row of the table: its label, protocol and mark of its note, and its places in panel order."""

    label: str
    protocol: str
    mark: str
    places: tuple[Shown, ...]


@dataclass(frozen=True)
class Block:
    """The rows of one model; `label` is "" where the table has only one."""

    label: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Group:
    """Panels that stand together: a task or benchmark ("" where there is only one) and the metrics below it."""

    label: str
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class Sheet:
    """A table ready to print. `notes` are (mark, text); a place carries the mark of its note, "" is for the table."""

    groups: tuple[Group, ...]
    blocks: tuple[Block, ...]
    notes: tuple[tuple[str, str], ...]

    @property
    def headings(self) -> tuple[str, ...]:
        """A heading a panel: the metric, with its task where there are several."""
        return tuple(f"{group.label}: {metric}" if group.label else metric
                     for group in self.groups for metric in group.metrics)

    @property
    def lines(self) -> tuple[Line, ...]:
        """The lines of every block."""
        return tuple(line for block in self.blocks for line in block.lines)

    @property
    def marks(self) -> set[str]:
        """The marks that occur: "best", "second"."""
        return {place.rank for line in self.lines for place in line.places} - {""}

    @property
    def double(self) -> list[bool]:
        """For each panel whether the paper prints a number in it."""
        return [any(line.places[i].published for line in self.lines) for i in range(len(self.headings))]

    def parts(self, most: int) -> Iterator[Sheet]:
        """The table in pieces that fit: a model each, and at most `most` panels, groups kept whole; no notes."""
        pieces: list[list[Group]] = [[]]
        for group in self.groups:
            if pieces[-1] and sum(len(one.metrics) for one in [*pieces[-1], group]) > most:
                pieces.append([])
            pieces[-1].append(group)
        for block in self.blocks:
            start = 0
            for piece in pieces:
                end = start + sum(len(group.metrics) for group in piece)
                lines = tuple(replace(line, places=line.places[start:end]) for line in block.lines)
                yield Sheet(tuple(piece), (replace(block, lines=lines),), ())
                start = end


def number(value: float | str | None, digits: int) -> str:
    """A value rounded for people; text as it is."""
    return f"{value:z.{digits}f}" if isinstance(value, float) else str(value or "")


def sheet(frame: TableFrame) -> Sheet:
    """Lay a table out; entries with a note get a letter, equal notes the same one."""
    marks: dict[str, str] = {}
    settings = frame.experiment.kind == "settings" and len(frame.experiment.columns) > 1
    blocks = []
    for model in frame.models:
        lines = [line for row in frame.rows
                 for line in (_settings(frame, model, row, marks) if settings else [_line(frame, model, row, marks)])]
        blocks.append(Block(model if len(frame.models) > 1 else "", tuple(lines)))
    notes = [(mark, note) for note, mark in marks.items()]
    return Sheet(_groups(frame, settings), tuple(blocks), (*notes, *([("", frame.footnote)] if frame.footnote else [])))


def _groups(frame: TableFrame, settings: bool) -> tuple[Group, ...]:
    if settings:
        return (Group("", tuple(frame.experiment.columns)),)
    columns = dict.fromkeys(column for column, _ in frame.panels)
    return tuple(Group(column if len(columns) > 1 else "",
                       tuple(_heading(frame, column, metric.name) for other, metric in frame.panels if other == column))
                 for column in columns)


def _heading(frame: TableFrame, column: str, metric: str) -> str:
    """The metric, with the estimator that made its numbers where it is none that everybody knows."""
    said = {entry.estimator for entry in frame.entries if (entry.column, entry.metric.name) == (column, metric)} - {""}
    return f"{metric} ({'; '.join(sorted(said))})" if said else metric


def _line(frame: TableFrame, model: str, label: str, marks: dict[str, str]) -> Line:
    row = frame.experiment.rows[label]
    protocol = "" if row.protocol and row.protocol in label else row.protocol
    mark = _mark(row.note, marks)
    return Line(label, protocol, mark, tuple(_shown(frame, model, label, column, metric.name, marks)
                                             for column, metric in frame.panels))


def _settings(frame: TableFrame, model: str, label: str, marks: dict[str, str]) -> list[Line]:
    """A line a setting, a place a task, as papers print hyperparameters; what a method lacks is left out."""
    lines = []
    for metric in frame.experiment.metrics:
        places = tuple(_shown(frame, model, label, column, metric.name, marks)
                       for column in frame.experiment.columns)
        if metric.shown and any(place.published or not place.hole for place in places):
            lines.append(Line(f"{label}: {metric.name}", "", _mark(frame.experiment.rows[label].note, marks), places))
    return lines


def _mark(note: str, marks: dict[str, str]) -> str:
    return marks.setdefault(note, _letter(len(marks))) if note else ""


def _letter(position: int) -> str:
    return f"[{chr(ord('a') + position)}]" if position < 26 else f"[{position}]"


def _shown(frame: TableFrame, model: str, row: str, column: str, metric: str, marks: dict[str, str]) -> Shown:
    entry, rank = frame.at(row, column, metric, model)
    digits = entry.metric.digits
    sampled = bool(entry.draws.size)
    printed = entry.published
    return Shown(
        published=(f"{printed.value} ({printed.std})" if printed.std else printed.value) if printed else "",
        value=number(entry.value, digits),
        std=_std(frame, entry),
        half=number((entry.high - entry.low) / 2, digits) if sampled else "",
        low=number(entry.low, digits) if sampled else "",
        high=number(entry.high, digits) if sampled else "",
        n=entry.n if sampled else 0,
        verdict="" if entry.hole else SHORT.get(entry.verdict, entry.verdict),
        rank=rank,
        hole=entry.hole,
        warnings=tuple(dict.fromkeys(warning.partition(":")[0] for warning in entry.warnings)),
        mark=_mark(entry.note, marks),
        runs=entry.runs,
    )


def _std(frame: TableFrame, entry: Entry) -> str:
    """The spread over trials that stands behind a value, from the metric it names."""
    if not entry.metric.std:
        return ""
    spread, _ = frame.at(entry.row, entry.column, entry.metric.std, entry.model)
    return number(spread.value, spread.metric.digits) if isinstance(spread.value, float) else ""


def verdict_text(verdict: Verdict) -> str:
    """A claim's verdict in words, with the share of draws or the reason behind it."""
    if share_text(verdict):
        return f"{verdict.word} ({share_text(verdict)})"
    return f"{verdict.word}: {verdict.reason}" if verdict.reason else verdict.word


def share_text(verdict: Verdict) -> str:
    """"12 % of draws", or "" where the draws (nearly) agree or nothing was drawn."""
    if verdict.share is None or not 0.005 <= verdict.share < 0.995:
        return ""
    return f"{100 * verdict.share:.0f} % of draws"
