"""Traces of searches as trees: a candidate, what was said of it, and those that went on from it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from eval.artifacts import ROWS_FILE, Archive


@dataclass(frozen=True)
class Candidate:
    """A part of a response: its text, its value (None: not asked), whether it was kept, whether the response has it."""

    text: str
    value: Any
    kept: bool
    won: bool
    next: tuple[Candidate, ...]


def searches(archive: Archive, key: str) -> dict[int, tuple[Candidate, ...]]:
    """Item -> its first candidates, of one artifact; what is no row of a trace is left out."""
    rows: defaultdict[int, dict[tuple[int, int], dict[str, Any]]] = defaultdict(dict)
    for row in archive.texts(key, ROWS_FILE["trace"]):
        if all(isinstance(row.get(name), int) for name in ("item", "round", "candidate")):
            rows[row["item"]][row["round"], row["candidate"]] = row
    return {item: _tree(found) for item, found in rows.items()}


def _tree(rows: dict[tuple[int, int], dict[str, Any]]) -> tuple[Candidate, ...]:
    """The tree is built from its leaves: what the response is made of is known at the end."""
    last = max(number for number, _ in rows)
    after: defaultdict[Any, list[Candidate]] = defaultdict(list)
    for number in range(last, -1, -1):
        made: defaultdict[Any, list[Candidate]] = defaultdict(list)
        for (_, place), row in sorted(entry for entry in rows.items() if entry[0][0] == number):
            following = tuple(after[place])
            kept = row.get("kept") is True
            won = kept if number == last else any(one.won for one in following)
            made[row.get("parent")].append(Candidate(str(row.get("text", "")), row.get("value"), kept, won, following))
        after = made
    return tuple(one for some in after.values() for one in some)
