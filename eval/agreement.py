"""Two judges of the very same pairs: how often they say the same, and how much of that chance would not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import combinations

from eval.artifacts import ROWS_FILE, Archive
from eval.entries import Entry
from rlfamily.quantities import Metric

WORDS = ("win", "tie", "loss")
Sides = tuple[str, str]  # keys of our scores and of theirs


def judgements(archive: Archive) -> dict[Sides, list[str]]:
    """Whose scores were compared -> every judgement of them, from every table that has some, by the judge's name."""
    found: dict[Sides, dict[str, None]] = {}
    for _, index in archive.indexes():
        for cell in index.cells:
            key = cell.stages.get("judge", "")
            manifest = archive.manifest(key) if key else None
            if manifest and not archive.altered(key, ROWS_FILE["judge"]):
                sides = str(manifest.inputs["ours"]), str(manifest.inputs["theirs"])
                found.setdefault(sides, {})[key] = None
    return {sides: sorted(keys, key=lambda key: (judge_of(archive, key), key)) for sides, keys in found.items()}


def judge_of(archive: Archive, key: str) -> str:
    """Who judged, in one line; "" where nothing was judged."""
    rows = archive.rows(key, ROWS_FILE["judge"])
    return str(rows[0].get("judge", "")) if rows else ""


def verdicts(archive: Archive, key: str) -> dict[int, str]:
    """Item -> win, tie or loss by both orders together."""
    return {row["item"]: word for row in archive.rows(key, ROWS_FILE["judge"])
            if isinstance(row.get("item"), int) and row.get("order") != "one" for word in WORDS if row.get(word)}


def kappa(pairs: Iterable[tuple[str, str]]) -> float | None:
    """Cohen's kappa of two judges' verdicts; None where chance alone would make them agree always."""
    seen = list(pairs)
    first, second = (Counter(side) for side in zip(*seen, strict=True))
    agreed = sum(one == other for one, other in seen) / len(seen)
    chance = sum(first[word] * second[word] for word in first) / len(seen) ** 2
    return None if chance == 1 else (agreed - chance) / (1 - chance)


def footnote(archive: Archive, made: Iterable[Entry]) -> str:
    """A sentence for each two judges who judged the same pairs of this table; "" where no two did."""
    own = {key for entry in made if isinstance(entry.metric, Metric) and entry.metric.stage == "judge"
           for _, key in entry.runs}
    said: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for keys in judgements(archive).values() if own else ():
        if own.isdisjoint(keys):
            continue
        for one, other in combinations(keys, 2):
            names, mine, theirs = (judge_of(archive, one), judge_of(archive, other)), *(
                verdicts(archive, key) for key in (one, other))
            if names[0] != names[1]:
                said.setdefault(names, []).extend((mine[item], theirs[item]) for item in mine if item in theirs)
    return " ".join(_sentence(*names, pairs) for names, pairs in sorted(said.items()) if pairs)


def _sentence(one: str, other: str, pairs: list[tuple[str, str]]) -> str:
    share, beyond = sum(mine == theirs for mine, theirs in pairs) / len(pairs), kappa(pairs)
    value = "Cohen's kappa is not defined: both say one thing" if beyond is None else f"Cohen's kappa {beyond:.2f}"
    return f"{one} and {other} agree on {100 * share:.1f} % of {len(pairs)} pairs that both judged ({value})."
