"""A few lines on one score file, for the terminal."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from statistics import fmean

from eval.values import number_of
from rlfamily.records import read_jsonl

SKIPPED = ("item", "draw", "truncated", "length")


def score_lines(path: Path) -> list[str]:
    """Means per decoding mode, one line each, e.g. "greedy   reward 2.410  valid 0.402  format 1.000  (n 256)"."""
    rows = defaultdict(list)
    for row in read_jsonl(path):
        rows[str(row.get("mode", "no mode"))].append(row)
    return [f"{mode:<7}  {_means(group)}  (n {len(group)})" for mode, group in rows.items()]


def _means(rows: list[dict[str, object]]) -> str:
    names = [name for name, value in rows[0].items() if name not in SKIPPED and isinstance(value, int | float)]
    names.sort(key=lambda name: (name != "reward", name != "valid", name))
    values = {name: [row[name] for row in rows if name in row] for name in names}
    return "  ".join(f"{name} {fmean(map(number_of, found)):z.3f}"
                     for name, found in values.items())
