"""A few lines on one score file, for the terminal."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from statistics import fmean

from rlfamily.records import read_jsonl


def score_lines(path: Path) -> list[str]:
    """Valid and format rate per decoding mode, one line each, e.g. "greedy   valid 0.402  format 1.000  (n 256)"."""
    rows = defaultdict(list)
    for row in read_jsonl(path):
        rows[row["mode"]].append(row)
    return [f"{mode:<7} valid {fmean(row['valid'] for row in group):.3f}  "
            f"format {fmean(row['format'] for row in group):.3f}  (n {len(group)})" for mode, group in rows.items()]
