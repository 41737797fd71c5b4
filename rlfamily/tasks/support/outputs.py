"""Files of outputs as alpaca_eval reads and writes them: rows of instruction, output and generator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rlfamily.errors import UserError, nearest
from rlfamily.tasks.support import local


@dataclass(frozen=True)
class Output:
    """A response to an instruction, and who gave it ("" where the file does not say)."""

    instruction: str
    output: str
    generator: str


def read(path: Path, key: str) -> list[Output]:
    """The rows of a .json, .jsonl or .csv file; an output may be empty. `key` is the setting that names it.

    Raises UserError for a file that is missing or unreadable, lacks a column, or has a row without text.
    """
    if not path.is_file():
        raise UserError(f"{key}: there is no file '{path}': give one with instruction and output in each row, as "
                        "alpaca_eval's model_outputs.json has them")
    try:
        rows = local.read([path])
    except local.Unreadable as error:
        raise UserError(f"{key}: cannot read '{path}' [{error}]: give a list of rows with instruction and output"
                        ) from error
    there = list(dict.fromkeys(name for row in rows for name in row))
    for column in ("instruction", "output"):
        if column not in there:
            raise UserError(f"{key}: '{path}' has no column '{column}'{nearest(column, there)}: give each row an "
                            "instruction and an output")
        for place, row in enumerate(rows):
            if not isinstance(row.get(column), str):
                raise UserError(f"{key}: row {place} of '{path}' has no text as its {column}: give it one")
    return [Output(row["instruction"], row["output"], str(row.get("generator") or "")) for row in rows]
