"""AlpacaEval's instructions as held-out prompts: reference outputs and difficulties, from files that one has.

Neither is in the package alpaca_eval. A difficulty belongs to the instruction at its index in the reference outputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlfamily.errors import UserError, nearest
from rlfamily.examples import CONTROLLED, Example
from rlfamily.settings import Location, Strict
from rlfamily.tasks.support import local, outputs

KEY = "task.source.held_out"
GAMED = ("std_delta_len", "preference")
BASELINES = 2  # gamed ones, as alpaca_eval counts them


class HeldOut(Strict):
    """Test prompts from a file.

    `outputs` has rows of instruction and output, of which the first `test` become prompts with their references
    (alpaca_eval_gpt4_baseline.json). `difficulties` (null: not known) is df_gamed.csv, or instruction_difficulty.csv,
    which lacks the gamed baselines.
    """

    outputs: Location
    difficulties: Location | None


def examples(source: HeldOut, count: int) -> list[Example]:
    """The first `count` instructions, with references and what is known of difficulties. Raises UserError."""
    rows = outputs.read(Path(source.outputs), f"{KEY}.outputs")
    if len(rows) < count:
        raise UserError(f"task.source.test: {count} prompts asked, but '{source.outputs}' has {len(rows)}: lower it, "
                        "and task.eval_prompts")
    known = difficulties(Path(source.difficulties), count) if source.difficulties else [None] * count
    return [Example(f"test-{place}", row.instruction, {
        "messages": [{"role": "user", "content": row.instruction}], "reference": row.output,
        "generator": row.generator, **({} if one is None else {CONTROLLED: one})})
        for place, (row, one) in enumerate(zip(rows[:count], known, strict=True))]


def difficulties(path: Path, count: int) -> list[list[float]]:
    """Of each index its difficulty and, where the file has them, two numbers of each gamed baseline.

    Raises UserError for a file that is missing, unreadable, or knows nothing of an index.
    """
    if not path.is_file():
        raise UserError(f"{KEY}.difficulties: there is no file '{path}': give df_gamed.csv or "
                        "instruction_difficulty.csv of alpaca_eval's data, or null")
    try:
        rows = local.read([path])
    except local.Unreadable as error:
        raise UserError(f"{KEY}.difficulties: cannot read '{path}' [{error}]") from error
    there = list(rows[0])
    name = "index" if "index" in there else there[0]  # what pandas writes of an index has no name
    if "instruction_difficulty" not in there:
        raise UserError(f"{KEY}.difficulties: '{path}' has no column 'instruction_difficulty'"
                        f"{nearest('instruction_difficulty', there)}")
    by_index: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        by_index.setdefault(int(_number(row[name], path)), []).append(row)
    return [_known(by_index.get(index, []), index, path, {*GAMED} <= {*there}) for index in range(count)]


def _known(rows: Sequence[dict[str, Any]], index: int, path: Path, gamed: bool) -> list[float]:
    if not rows or (gamed and len(rows) != BASELINES):
        raise UserError(f"{KEY}.difficulties: '{path}' has {len(rows)} rows of instruction {index}, not "
                        f"{f'one of each of {BASELINES} gamed baselines' if gamed else 'one'}: give the file of these "
                        "instructions")
    baselines = [_number(row[name], path) for row in rows for name in GAMED] if gamed else []
    return [_number(rows[0]["instruction_difficulty"], path), *baselines]


def _number(text: Any, path: Path) -> float:
    try:
        number = float(text)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{KEY}.difficulties: '{path}' holds {str(text)[:40]!r} where a number is due")
    return number
