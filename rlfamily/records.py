"""Schema of everything written under results/: read and written through these types only.

Layout (R = results root):
    R/artifacts/objects/<k[:2]>/<k>/    committed artifacts: manifest.json and the stage's files, immutable
    R/artifacts/work/<k>/               a stage in progress: order.json, progress.json, log.txt, checkpoints
    R/artifacts/failed/<k>.json         last failure of a stage (advisory, never blocks a retry)
    R/index/<experiment>.json           which artifacts make up an experiment's cells
    R/tables, R/figures, R/report       regenerated from the above
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from rlfamily.errors import UserError

_CHUNK_BYTES = 1 << 20

LEFT_OUT = "left_out"
"""In a data stage's summary: how many rows it left out, by what they are. Tables made from the data show it."""

SIGNATURES = "metrics"
"""In a score stage's summary: what each text metric's numbers depend on, by its name. Tables show it."""

Status = Literal["done", "failed", "blocked", "missing"]


class Record(BaseModel):
    """Closed and frozen, so that a misspelt field cannot be written."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FileInfo(Record):
    """Size in bytes and BLAKE3 hash of one file of an artifact."""

    bytes: int
    blake3: str


class StageRecord(Record):
    """What identifies and describes a stage, before and after it ran.

    `uses` are versions of the plug-ins its numbers come from; `inputs` maps names to keys, or to keys by name.
    """

    key: str
    kind: str
    version: str
    label: str
    config: dict[str, Any]
    inputs: dict[str, str | dict[str, str]]
    hardware: dict[str, Any]
    uses: dict[str, str] = {}

    @property
    def named_sources(self) -> list[tuple[str, str]]:
        """Name and key of every input, in one row: those under a common name as `name.inner`."""
        return [pair for name, source in self.inputs.items()
                for pair in ([(name, source)] if isinstance(source, str)
                             else [(f"{name}.{inner}", key) for inner, key in source.items()])]

    @property
    def sources(self) -> list[str]:
        """Keys of the inputs in one row."""
        return [key for _, key in self.named_sources]


class Manifest(StageRecord):
    """The last file written into an artifact: its presence means that the artifact is complete."""

    files: dict[str, FileInfo]
    summary: dict[str, Any]
    commit: str
    dirty: bool
    versions: dict[str, str]
    machine: dict[str, Any]
    started: str
    seconds: float
    cpu_seconds: float | None = None  # None: made before they were counted
    attempts: int


class Failure(Record):
    """Why a stage has no artifact: one line, and the tail of the traceback."""

    key: str
    kind: str
    label: str
    error: str
    traceback: str
    log: str
    when: str


class Progress(Record):
    """Where a running stage is; replaced atomically every second or so."""

    step: int
    total: int
    seconds: float
    cpu_seconds: float = 0.0
    note: str = ""


class CellEntry(Record):
    """One cell of an experiment: its coordinates, its resolved config, its stage keys by role, its fate."""

    model: str
    row: str
    column: str
    seed: int
    overrides: list[str]
    names: dict[str, str]
    config: dict[str, Any]
    stages: dict[str, str]
    status: Status
    reason: str = ""


class Index(Record):
    """An experiment as last planned: the yaml as read (`spec`), the scale it ran at, and every cell.

    `changes` is what the command line changed of the numbers: such a table has a name of its own (`variants`).
    """

    experiment: str
    scale: str
    changes: list[str] = []
    spec: dict[str, Any]
    cells: list[CellEntry]


class Layout:
    """Paths under a results root."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.artifacts = self.root / "artifacts"
        self.index = self.root / "index"
        self.tables = self.root / "tables"
        self.figures = self.root / "figures"
        self.report = self.root / "report"

    def object(self, key: str) -> Path:
        """Folder of a committed artifact."""
        return self.artifacts / "objects" / key[:2] / key

    def work(self, key: str) -> Path:
        """Folder of a stage in progress."""
        return self.artifacts / "work" / key

    def failure(self, key: str) -> Path:
        """File that describes the last failure of a stage."""
        return self.artifacts / "failed" / f"{key}.json"

    def committed(self, key: str) -> bool:
        """True when the artifact is complete: its manifest is there."""
        return (self.object(key) / "manifest.json").is_file()

    def manifest(self, key: str) -> Manifest:
        """Read the manifest of a committed artifact.

        Raises FileNotFoundError when there is none, UserError for one that cannot be read.
        """
        path = self.object(key) / "manifest.json"
        try:
            return Manifest.model_validate_json(path.read_bytes())
        except ValueError as error:
            raise UserError(f"{path}: cannot be read; delete its folder and run the command again") from error


def hash_file(path: Path) -> str:
    """BLAKE3 of a file's content."""
    from blake3 import blake3  # late: reading a results folder needs it only where something was touched

    hasher = blake3()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            hasher.update(chunk)
    return hasher.hexdigest()


def write_atomic(path: Path, text: str, durable: bool = True) -> None:
    """Write `text` so that a reader, or a crash, sees the old file or the new one and nothing between.

    Not `durable`: for advisory files, which a crash of the whole machine may lose; it spares the wait for the disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    os.replace(temporary, path)


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON-lines file, one at a time."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.strip():
                yield json.loads(line)


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write JSON lines with sorted keys, so that equal rows give equal bytes."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, sort_keys=True) + "\n")
