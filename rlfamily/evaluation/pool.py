"""Samples by content: responses of one policy to one set of prompts, drawn in one way, and never drawn twice.

<shared>/samples/<k[:2]>/<k>.jsonl, where k hashes the policy, the prompts and how to draw, but not how many. A file
only grows, by whole chunks; what a crash left torn at its end is ignored. Two writers of one file write equal rows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from blake3 import blake3

FOLDER = "samples"


class Pool:
    """The rows of one address, read once; `added` counts what this process drew."""

    def __init__(self, path: Path) -> None:
        self.path, self.added = path, 0
        self._rows: dict[tuple[str, int, int], dict[str, Any]] = {}
        if path.exists():
            self._keep(_whole(path.read_bytes().splitlines()))

    @classmethod
    def at(cls, shared: Path, content: dict[str, Any], decoder: str) -> Pool:
        """The pool of what `content` describes, drawn by the decoder of that version."""
        text = json.dumps(content | {"decoder": decoder}, sort_keys=True)
        key = blake3(text.encode()).hexdigest()[:32]
        return cls(shared / FOLDER / key[:2] / f"{key}.jsonl")

    def has(self, mode: str, item: int, draw: int) -> bool:
        """Whether there is such a response."""
        return (mode, item, draw) in self._rows

    def row(self, mode: str, item: int, draw: int) -> dict[str, Any]:
        """One response, its prompt left out. Raises KeyError when it is not there."""
        return self._rows[mode, item, draw]

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Append rows, in one write."""
        rows = list(rows)
        if not rows:
            return
        text = "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
            torn = file.read(1) not in (b"", b"\n")
            file.write(("\n" if torn else "").encode() + text.encode())
        self._keep(rows)
        self.added += len(rows)

    def _keep(self, rows: Iterable[dict[str, Any]]) -> None:
        for row in rows:
            self._rows.setdefault((row["mode"], row["item"], row["draw"]), row)


def _whole(lines: Iterable[bytes]) -> Iterable[dict[str, Any]]:
    """The rows that can be read: a line that a crash cut or a disk spoiled is drawn again."""
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and {"mode", "item", "draw", "response", "ids", "truncated"} <= row.keys():
            yield row
