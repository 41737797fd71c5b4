"""The reading side of a results folder: indexes, published numbers and artifact columns, each read once."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from eval.values import BAD
from rlfamily.errors import UserError, describe, nearest
from rlfamily.experiment import EXPERIMENTS, UNTRAINED, Experiment
from rlfamily.records import Index, Layout, Manifest, hash_file
from rlfamily.variants import table_of

ROWS_FILE = {"train": "metrics.jsonl", "timings": "timings.jsonl", "generate": "responses.jsonl",
             "score": "scores.jsonl", "logprobs": "logprobs.jsonl", "targets": "targets.jsonl",
             "accuracy": "accuracy.jsonl", "latency": "latency.jsonl", "judge": "judgements.jsonl",
             "theory": "theory.jsonl", "trace": "trace.jsonl"}


Item = TypeVar("Item", bound=BaseModel)


def read_items(folder: Path, kind: type[Item]) -> list[Item]:
    """Every entry of the yaml lists in a folder, checked. Raises UserError (one line) for the first wrong one."""
    items: list[Item] = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            items += [kind.model_validate(item) for item in yaml.load(path.read_text("utf-8-sig"), yaml.CSafeLoader)]
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: not readable as yaml: {' '.join(str(error).split())}") from error
        except ValidationError as error:
            raise UserError(f"{path}: {describe(error, kind)}") from error
    return items


def _translated(spec: Any) -> Any:
    """An experiment as it is written now: older indexes say `untrained` beside the overrides of a borrowed method."""
    if not isinstance(spec, dict):
        return spec
    said = spec.get("untrained")  # a flag; a row, a model or a column may have that name
    kept = {key: _translated(value) for key, value in spec.items() if key != "untrained" or not isinstance(said, bool)}
    return kept | {"overrides": [UNTRAINED]} if said is True else kept


def _lines(path: Path) -> list[str]:
    """The lines of a jsonl file; bytes that are no text become U+FFFD."""
    return [line for line in path.read_text("utf-8-sig", errors="replace").split("\n") if line.strip()]


def _parsed(lines: list[str]) -> list[dict[str, Any]]:
    """A row a line, in order. Sound files are read at once, in half the time of line by line."""
    try:
        rows = json.loads(f"[{','.join(lines)}]")
    except (ValueError, RecursionError):
        rows = None
    if rows is None or len(rows) != len(lines) or not all(isinstance(row, dict) for row in rows):
        return [_row(line) for line in lines]
    return list(rows)


def _row(line: str) -> dict[str, Any]:
    """The row of one line; of a line that holds none (cut, or no object) a row that says so, under `BAD`."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    return row if isinstance(row, dict) else {BAD: line[:200]}


@dataclass(frozen=True)
class Published:
    """A number as the paper prints it: exact strings, so that no digit is gained or lost."""

    value: str
    std: str
    note: str


@dataclass
class Archive:
    """A results folder together with the experiments folder that says what the papers printed."""

    root: Path
    experiments: Path = EXPERIMENTS
    _rows: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=dict)
    _chosen: dict[tuple[Any, ...], list[dict[str, Any]]] = field(default_factory=dict)
    _indexes: dict[str, tuple[Index, Experiment]] = field(default_factory=dict)
    _published: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    _manifests: dict[str, Manifest] = field(default_factory=dict)
    _altered: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def layout(self) -> Layout:
        """Paths under the results root."""
        return Layout(self.root)

    def names(self) -> list[str]:
        """Every experiment that has an index here, sorted."""
        return sorted(path.stem for path in self.layout.index.glob("*.json"))

    def indexes(self) -> Iterator[tuple[str, Index]]:
        """Every index that can be read, with its name."""
        for name in self.names():
            with suppress(UserError):
                yield name, self.index(name)[0]

    def index(self, name: str) -> tuple[Index, Experiment]:
        """Read an index and the experiment it was planned from. Raises UserError when missing or unreadable."""
        if name not in self._indexes:
            self._indexes[name] = self._read_index(name)
        return self._indexes[name]

    def _read_index(self, name: str) -> tuple[Index, Experiment]:
        path = self.layout.index / f"{name}.json"
        table = table_of(name)
        if name not in self.names():
            raise UserError(f"{name}: no results under {self.layout.index}{nearest(name, self.names())}: "
                            f"run make reproduce TABLE={table} first")
        try:
            index = Index.model_validate_json(path.read_text("utf-8-sig"))
            experiment = Experiment.model_validate(_translated(index.spec))
            return index, experiment.model_copy(update={"title": f"{experiment.title} · with {', '.join(index.changes)}"
                                                        if index.changes else experiment.title})
        except ValidationError as error:
            raise UserError(f"{path}: not a readable index: {describe(error, Index)}: "
                            f"run make reproduce TABLE={table} again") from error

    def manifest(self, key: str) -> Manifest | None:
        """Manifest of an artifact, or None while it is not committed."""
        if key not in self._manifests:
            if not self.layout.committed(key):
                return None
            self._manifests[key] = self.layout.manifest(key)
        return self._manifests[key]

    def altered(self, key: str, file: str) -> str:
        """Why a file of a committed artifact is not the one that its stage wrote; "" when it is.

        Its content is read only where its time says that it was touched after the commit.
        """
        if (key, file) not in self._altered:
            self._altered[key, file] = self._compared(key, file)
        return self._altered[key, file]

    def _compared(self, key: str, file: str) -> str:
        folder, manifest = self.layout.object(key), self.manifest(key)
        info, path = manifest.files.get(file) if manifest else None, folder / file
        if info is None:
            return ""
        there = path.stat() if path.is_file() else None
        touched = there and there.st_mtime_ns > (folder / "manifest.json").stat().st_mtime_ns
        if there and there.st_size == info.bytes and not (touched and hash_file(path) != info.blake3):
            return ""
        what = "was changed after" if there else "is gone since"
        return f"{path} {what} its stage wrote it: delete its folder and run again"

    def rows(self, key: str, file: str) -> list[dict[str, Any]]:
        """Rows of a committed artifact's jsonl file, without the long texts (see `texts`); prompts are hashes."""
        if (key, file) not in self._rows:
            path = self.layout.object(key) / file
            rows = _parsed(_lines(path)) if path.is_file() else []
            for row in rows:
                row.pop("response", None)
                if "prompt" in row:
                    row["prompt"] = str(hash(str(row["prompt"])))
            self._rows[key, file] = rows
        return self._rows[key, file]

    def select(self, key: str, file: str, where: Mapping[str, object]) -> list[dict[str, Any]]:
        """The rows with these values; each choice is made once."""
        choice = (key, file, tuple(sorted(where.items())))
        if choice not in self._chosen:
            self._chosen[choice] = [row for row in self.rows(key, file)
                                    if all(row.get(name) == value for name, value in where.items())]
        return self._chosen[choice]

    def texts(self, key: str, file: str) -> Iterator[dict[str, Any]]:
        """Rows of an artifact's jsonl file as written; nothing when it has no such file."""
        path = self.layout.object(key) / file
        return map(_row, _lines(path)) if path.is_file() else iter(())

    def texts_at(self, key: str, file: str, positions: Iterable[int]) -> list[dict[str, Any]]:
        """Some rows of an artifact's jsonl file as written, by their position in it."""
        lines = _lines(self.layout.object(key) / file)
        return [_row(lines[position]) for position in positions]

    def published_rows(self, file: str) -> list[dict[str, str]]:
        """Rows of experiments/published/<file>; none when `file` is empty. Raises UserError when it is missing."""
        if file and file not in self._published:
            path = self.experiments / "published" / file
            if not path.is_file():
                raise UserError(f"published: {path} is missing: correct `published` in the experiment's yaml")
            try:
                with path.open(newline="", encoding="utf-8-sig") as handle:
                    self._published[file] = list(csv.DictReader(handle))
            except UnicodeDecodeError as error:
                raise UserError(f"published: {path} is no UTF-8 text ({error}): save it as UTF-8") from error
        return self._published.get(file, [])

    def published(self, file: str, **where: str) -> Published | None:
        """The one published number with these csv values (method=..., metric=...), or None. Raises UserError on two."""
        found = [row for row in self.published_rows(file)
                 if all(row[name] == value for name, value in where.items())]
        if len(found) > 1:
            raise UserError(f"published/{file}: {len(found)} rows match {json.dumps(where)}: make them distinct")
        return Published(found[0]["value"], found[0]["std"], found[0]["note"]) if found else None
