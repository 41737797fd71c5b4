"""Rows of local JSON and CSV files as they are written: text stays text, numbers keep their digits.

The libraries guess types by column: text like a date becomes a time, integers beside floats lose digits, NA is a hole.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

Row = dict[str, Any]
JSON, TABLES = (".json", ".jsonl", ".ndjson"), {".csv": ",", ".tsv": "\t"}
PACKED = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}
DIGITS = 4000  # of an integer: Python refuses to read much longer ones, which stay text


class Written(float):
    """A number that is shown as it was written: 0.50, 1e-7."""

    text: str

    def __new__(cls, text: str) -> Written:
        """The number, with its text."""
        made = super().__new__(cls, text)
        made.text = text
        return made

    def __str__(self) -> str:
        return self.text


class Unreadable(Exception):
    """Why a file cannot be read, with its name and, where there is one, its line."""


def read(paths: Sequence[Path]) -> list[Row]:
    """The rows of JSON files (objects in lines, or in a list), CSV and TSV files, also packed ones. All are UTF-8.

    Raises Unreadable for another encoding, damage, and a file without rows.
    """
    return [row for path in paths for row in _file(path)]


def _file(path: Path) -> list[Row]:
    found: list[Row] = []
    try:
        for name, content in _contents(path.name, path.read_bytes()):
            found += _rows(name, content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise Unreadable(f"'{path.name}' is not UTF-8 (byte {error.start + 1}): save it as UTF-8") from error
    except (ValueError, OSError, EOFError, RecursionError, csv.Error, zipfile.BadZipFile, lzma.LZMAError) as error:
        raise Unreadable(f"'{path.name}': {' '.join(str(error).split()) or type(error).__name__}") from error
    if not found:
        raise Unreadable(f"'{path.name}' holds no rows")
    return found


def _contents(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    """The file, or the files in it, unpacked."""
    path = PurePath(name)
    if path.suffix in PACKED:
        yield from _contents(path.stem, PACKED[path.suffix](content))
    elif path.suffix == ".zip":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for inner in archive.namelist():
                if PurePath(inner).suffix in (*JSON, *TABLES):
                    yield inner, archive.read(inner)
    else:
        yield name, content


def _rows(name: str, text: str) -> Iterator[Row]:
    delimiter = TABLES.get(PurePath(name).suffix)
    return _objects(text) if delimiter is None else _table(text, delimiter)


def _objects(text: str) -> Iterator[Row]:
    """One object after another, whatever lies between them, or the objects of a list."""
    decoder = json.JSONDecoder(parse_float=Written, parse_int=lambda text: text if len(text) > DIGITS else int(text))
    place = 0
    while (start := _next(text, place)) < len(text):
        value, place = decoder.raw_decode(text, start)
        for row in value if isinstance(value, list) else [value]:
            if not isinstance(row, dict):
                line = text.count("\n", 0, start) + 1
                raise ValueError(f"line {line} holds {str(row)[:40]!r}, not an object with columns")
            yield row


def _next(text: str, place: int) -> int:
    while place < len(text) and text[place].isspace():
        place += 1
    return place


def _table(text: str, delimiter: str) -> Iterator[Row]:
    """A row for each line under the header; a cell that is not there is None."""
    csv.field_size_limit(sys.maxsize)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header = next(lines, [])
    if twice := [name for index, name in enumerate(header) if name in header[:index]]:
        raise ValueError(f"column '{twice[0]}' is there twice")
    for cells in lines:
        if len(cells) > len(header):
            raise ValueError(f"line {lines.line_num} has {len(cells)} cells under {len(header)} columns")
        if cells:
            yield dict(zip(header, [*cells, *[None] * (len(header) - len(cells))], strict=True))
