"""Which rows of a table were scored on other prompts than their neighbours: numbers to compare with care."""

from __future__ import annotations

from collections.abc import Iterable

from eval.artifacts import Archive
from eval.entries import Entry
from rlfamily.quantities import Metric

NOTE = "Scored on different prompts, so that rows differ by their prompts too"
Asked = frozenset[tuple[str, str]]


def footnote(archive: Archive, made: Iterable[Entry]) -> str:
    """Says which rows of one model and column were scored on different prompts; "" where all had the same."""
    places: dict[tuple[str, str], dict[str, set[tuple[str, str]]]] = {}
    for entry in made:
        if isinstance(entry.metric, Metric) and entry.metric.stage == "score" and entry.runs:
            rows = places.setdefault((entry.model, entry.column), {})
            rows.setdefault(entry.row, set()).update(_asked(archive, entry, entry.metric))
    told: dict[str, list[str]] = {}
    for (model, column), rows in places.items():
        groups: dict[Asked, list[str]] = {}
        for row, asked in rows.items():
            groups.setdefault(frozenset(asked), []).append(row)
        if len(groups) > 1:
            parts = sorted(groups.items(), key=lambda group: -len(group[1]))
            text = " | ".join(f"{', '.join(names)} ({len(asked)} prompts)" for asked, names in parts)
            told.setdefault(text, []).append(", ".join(part for part in (model, column) if part))
    return " ".join(f"{NOTE}: {text}; in {'; '.join(where)}." for text, where in told.items())


def _asked(archive: Archive, entry: Entry, metric: Metric) -> Asked:
    """Place and text of every prompt behind an entry."""
    return frozenset((str(row.get("item")), str(row.get("prompt"))) for _, key in entry.runs
                     for row in archive.select(key, "scores.jsonl", metric.where))
