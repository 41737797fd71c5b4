"""Where artifacts live: a folder per key that appears by one rename, whole or not at all.

Everything a worker needs is here under the results root; there is no database and no service. Correctness never rests
on a lock alone: two producers of one key both write their own folder, and the second rename loses harmlessly.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from rlfamily.hardware import StageHardware
from rlfamily.records import Failure, FileInfo, Layout, Manifest, Record, StageRecord, hash_file, write_atomic
from rlfamily.stages import provenance
from rlfamily.stages.graph import Node, canonical

MANIFEST = "manifest.json"
_TRACE_CHARACTERS = 6000


class Order(StageRecord):
    """All that a worker is told about a stage, in work/<key>/order.json."""

    @classmethod
    def of(cls, node: Node) -> Order:
        """The order for `node`."""
        return cls(
            key=node.key,
            kind=node.kind,
            version=node.version,
            label=node.label,
            uses=node.uses,
            config=node.settings,
            inputs=node.input_keys,
            hardware=node.hardware.model_dump(mode="json"),
        )

    @property
    def stage_hardware(self) -> StageHardware:
        """The hardware, typed."""
        return StageHardware.model_validate(self.hardware)

    def failure(self, error: str, trace: str = "") -> Failure:
        """Why the stage has no artifact; of a long trace, the end."""
        return Failure(key=self.key, kind=self.kind, label=self.label, error=error,
                       traceback=trace[-_TRACE_CHARACTERS:], log=f"artifacts/work/{self.key}/log.txt",
                       when=datetime.now(UTC).isoformat(timespec="seconds"))


class Effort(Record):
    """What an artifact cost: start of the last attempt (ISO 8601), seconds over all attempts, number of attempts.

    `cpu_seconds` are those of its processes, which tell its work on a machine that is busy with other things too.
    """

    started: str
    seconds: float
    cpu_seconds: float | None = None
    attempts: int


class Store:
    """The artifacts under one results root."""

    def __init__(self, root: Path | str) -> None:
        self.layout = Layout(root)

    def committed(self, key: str) -> bool:
        """True when the artifact is complete."""
        return self.layout.committed(key)

    def committed_keys(self) -> Iterator[str]:
        """Every committed key."""
        for path in self.layout.artifacts.glob(f"objects/??/*/{MANIFEST}"):
            yield path.parent.name

    def lock(self, key: str) -> FileLock:
        """The kernel lock of a key: released at any death of its holder. Refuses file systems that cannot lock."""
        path = self.layout.artifacts / "locks" / f"{key}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path, fallback_to_soft=False)

    def write_order(self, order: Order) -> None:
        """Tell workers about a stage; harmless when its key is committed by another process meanwhile."""
        path = self.layout.work(order.key) / "order.json"
        for last in (False, True):
            try:
                write_atomic(path, order.model_dump_json(), durable=False)
                return
            except FileNotFoundError:
                # The producer of this key committed and removed the work folder while we wrote into it.
                if last and not self.committed(order.key):
                    raise

    def order(self, key: str) -> Order:
        """Read work/<key>/order.json. Raises FileNotFoundError when there is none."""
        return Order.model_validate_json((self.layout.work(key) / "order.json").read_text("utf-8"))

    def fail(self, failure: Failure) -> None:
        """Record why a stage has no artifact."""
        write_atomic(self.layout.failure(failure.key), failure.model_dump_json(indent=1))

    def failure(self, key: str) -> Failure | None:
        """The last failure of a stage; None when there is none, or its file is damaged."""
        try:
            return Failure.model_validate_json(self.layout.failure(key).read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            return None

    def clear_failure(self, key: str) -> None:
        """Forget the last failure: a new attempt begins."""
        self.layout.failure(key).unlink(missing_ok=True)

    def commit(self, order: Order, out: Path, summary: dict[str, Any], effort: Effort) -> bool:
        """Make folder `out` the artifact of `order`: hash its files, write the manifest last, rename once.

        Returns False when another process committed the key first: `out` is then removed and nothing is lost.
        Raises UserError when `summary` is not JSON, ValueError when `out` holds links or a manifest of its own.
        """
        commit, dirty = provenance.code()
        manifest = Manifest(
            **order.model_dump(),
            files={path.relative_to(out).as_posix(): _seal(path) for path in _regular_files(out)},
            summary=json.loads(canonical(summary, f"{order.label}: summary")),
            commit=commit,
            dirty=dirty,
            versions=provenance.versions(),
            machine=provenance.machine(),
            **effort.model_dump(),
        )
        write_atomic(out / MANIFEST, manifest.model_dump_json(indent=1))
        for folder in (out, *(path for path in out.rglob("*") if path.is_dir())):
            _sync_folder(folder)
        return self._publish(order.key, out)

    def _publish(self, key: str, out: Path) -> bool:
        target = self.layout.object(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                os.rename(out, target)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                if self.committed(key):
                    shutil.rmtree(out)
                    return False
                # Someone removed the manifest by hand: what is there is no artifact, so put it out of the way.
                os.rename(target, self.layout.work(key) / f"damaged-{uuid.uuid4().hex}")
            else:
                _sync_folder(target.parent)
                return True

    def problems(self, key: str, *, contents: bool) -> list[str]:
        """What is wrong with a committed artifact, one line each; sizes only, or with `contents` every byte.

        Raises FileNotFoundError when the key is not committed.
        """
        folder, found = self.layout.object(key), []
        for name, info in self.layout.manifest(key).files.items():
            path = folder / name
            if not path.is_file():
                found.append(f"{path}: missing")
            elif path.stat().st_size != info.bytes:
                found.append(f"{path}: {path.stat().st_size} bytes, its manifest says {info.bytes}")
            elif contents and hash_file(path) != info.blake3:
                found.append(f"{path}: its content differs from what was committed")
        return found

    def verify(self, key: str) -> list[str]:
        """Read every byte of an artifact; return what is wrong with it, one line each, or []."""
        return self.problems(key, contents=True)

    def collect(self) -> list[str]:
        """Remove work folders and failures that a later commit made stale; return their keys."""
        stale = set()
        for path in [*self.layout.artifacts.glob("work/*"), *self.layout.artifacts.glob("failed/*.json")]:
            key = path.name.removesuffix(".json")
            if self.committed(key):
                self.forget_work(key)
                stale.add(key)
        return sorted(stale)

    def forget_work(self, key: str) -> None:
        """Remove what a committed stage left in work/ and failed/."""
        shutil.rmtree(self.layout.work(key), ignore_errors=True)
        with suppress(OSError):
            self.clear_failure(key)


def _regular_files(out: Path) -> list[Path]:
    paths = sorted(path for path in out.rglob("*") if path.is_symlink() or not path.is_dir())
    for path in paths:
        if path.is_symlink() or not path.is_file():
            raise ValueError(f"{path}: an artifact holds regular files only")
    if out / MANIFEST in paths:
        raise ValueError(f"{out / MANIFEST}: the store writes the manifest; give the stage's file another name")
    return paths


def _seal(path: Path) -> FileInfo:
    """Hash a file and see it safely on disk."""
    digest = hash_file(path)
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return FileInfo(bytes=path.stat().st_size, blake3=digest)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
