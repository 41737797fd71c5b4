"""The human layout of a table, shared by markdown, LaTeX, HTML and the terminal: rows by metrics, digits rounded."""

from __future__ import annotations

from dataclasses import dataclass

from eval import verdicts
from eval.claims import Verdict
from eval.entries import Entry
from eval.tables import TableFrame

SHORT = {verdicts.STAND_IN: "stand-in", verdicts.NOT_PUBLISHED: ""}


@dataclass(frozen=True)
class Shown:
    """One place of the table as text: what the paper prints, what we got, how sure, from where."""

    published: str
    value: str
    half: str
    low: str
    high: str
    n: int
    verdict: str
    best: bool
    hole: str
    mark: str
    runs: tuple[tuple[int, str], ...]

    @property
    def reproduced(self) -> str:
        """Value and half the width of its interval, or the word for a hole."""
        if self.hole:
            return self.hole
        return f"{self.value} ± {self.half}" if self.half else self.value

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
class Sheet:
    """A table ready to print. `notes` are (mark, text); a place carries the mark of its note."""

    headings: tuple[str, ...]
    lines: tuple[Line, ...]
    notes: tuple[tuple[str, str], ...]


def number(value: float | str | None, digits: int) -> str:
    """A value rounded for people; text as it is."""
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value or "")


def sheet(frame: TableFrame) -> Sheet:
    """Lay a table out; entries with a note get a letter, equal notes the same one."""
    marks: dict[str, str] = {}
    lines = []
    for label, row in frame.experiment.rows.items():
        places = [frame.at(label, column, metric.name) for column, metric in frame.panels]
        notes = [entry.note for entry, _ in places if entry.note]
        for note in ([row.note] if row.note else []) + notes:
            marks.setdefault(note, _letter(len(marks)))
        shown = tuple(_shown(entry, best, marks.get(entry.note, "")) for entry, best in places)
        protocol = "" if row.protocol and row.protocol in label else row.protocol
        lines.append(Line(label, protocol, marks.get(row.note, ""), shown))
    several = len(frame.experiment.columns) > 1
    headings = tuple(f"{column}: {metric.name}" if several else metric.name for column, metric in frame.panels)
    return Sheet(headings, tuple(lines), tuple((mark, note) for note, mark in marks.items()))


def _letter(position: int) -> str:
    return f"[{chr(ord('a') + position)}]" if position < 26 else f"[{position}]"


def _shown(entry: Entry, best: bool, mark: str) -> Shown:
    digits = entry.metric.digits
    sampled = bool(entry.draws.size)
    return Shown(
        published=entry.published.value if entry.published else "",
        value=number(entry.value, digits),
        half=number((entry.high - entry.low) / 2, digits) if sampled else "",
        low=number(entry.low, digits) if sampled else "",
        high=number(entry.high, digits) if sampled else "",
        n=entry.n if sampled else 0,
        verdict="" if entry.hole else SHORT.get(entry.verdict, entry.verdict),
        best=best,
        hole=entry.hole,
        mark=mark,
        runs=entry.runs,
    )


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
