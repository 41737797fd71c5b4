"""bench/results/*.json -> docs/benchmarks.md, whole and by rule: `bench.measure` says what a result holds."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.measure import RESULTS, Result

PAGE = Path(__file__).parents[1] / "docs/benchmarks.md"
TECHNIQUES = Path(__file__).parent / "techniques.md"
"""What was kept and what was dropped, in words; it becomes the end of the page as it is."""

PARTS = ("race", "techniques", "generation", "decoding", "cells", "startup", "gpu")
"""The order of the page; parts that are not named here follow by name."""

HEAD = """\
# Benchmarks

`make bench` measures all of this anew and makes this page from the files in bench/results; nothing here is written by
hand.

How to read it. Sides take turns in one run on one machine, every other round in reverse order, after rounds that do not
count. A cell such as "1.23 (1.20 - 1.31)" is a median with its quartiles. CPU seconds are those of the process, with
one thread; on a machine that does other things as well, they are the figure to trust, and wall seconds are not.
"""


def load(folder: Path = RESULTS) -> dict[str, Result]:
    """The results there are, by part, in the order of the page."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    return {name: found[name] for name in (*PARTS, *found) if name in found}


def page(results: Mapping[str, Result], techniques: str = "") -> str:
    """The whole document."""
    parts = [HEAD, *map(section, results.values()), techniques]
    return "\n".join(part.strip() + "\n" for part in parts if part.strip())


def section(result: Result) -> str:
    """One part: heading, paragraph, tables, notes, machine."""
    about = [wrapped(result["about"])] if result["about"] else []
    quick = ["**Small sizes, one round: these figures say that it runs, and nothing else.**"] if result["quick"] else []
    tables = [text for table in result["tables"] for text in _titled(table)]
    notes = ["\n".join(wrapped(f"* {note}", indent="  ") for note in result["notes"])] if result["notes"] else []
    texts = [f"## {result['title']}", *quick, *about, *tables, *notes, wrapped(machine_line(result["machine"]))]
    return "\n\n".join(texts) + "\n"


def wrapped(text: str, indent: str = "") -> str:
    """Lines as long as those of all documents; all but the first begin with `indent`."""
    return textwrap.fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _titled(table: Mapping[str, Any]) -> list[str]:
    return ([f"**{table['title']}**"] if table["title"] else []) + [markdown(table["columns"], table["rows"])]


def markdown(columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> str:
    """A table; a row may lack a cell."""
    lines = [list(columns.values()), ["---"] * len(columns), *([cell(row.get(key)) for key in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: Any) -> str:
    """Text as it is, numbers to three digits, a spread as its median and quartiles, nothing as a dash."""
    if value is None:
        return "–"
    if isinstance(value, Mapping):
        return f"{cell(value['median'])} ({cell(value['low'])} - {cell(value['high'])})"
    return number(value) if isinstance(value, float) else str(value)


def number(value: float) -> str:
    """Three significant digits; whole numbers from 100 on, powers of ten below a thousandth."""
    if value == 0:
        return "0"
    if abs(value) >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1e}" if abs(value) < 1e-3 else f"{value:#.3g}"


def machine_line(machine: Mapping[str, Any]) -> str:
    """Where and with what, on one line; what is not installed is left out."""
    return "Measured with: " + ", ".join(f"{key} {value}" for key, value in machine.items() if value is not None) + "."


def write() -> Path:
    """Make the page from the files."""
    PAGE.write_text(page(load(), TECHNIQUES.read_text() if TECHNIQUES.exists() else ""))
    return PAGE


if __name__ == "__main__":
    write()
