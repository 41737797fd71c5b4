"""What a worker does once it may: give the kind its place, its config and its inputs, and commit what it leaves."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from contextlib import suppress
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rlfamily.errors import UserError
from rlfamily.place import Place
from rlfamily.records import Progress, write_atomic
from rlfamily.stages.kind import Kind, get_kind, versions_used
from rlfamily.stages.store import Effort, Order, Store
from rlfamily.stamp import stamp

_PROGRESS_SECONDS = 1.0


class Stopwatch:
    """Writes progress.json, and counts a stage's seconds over all its attempts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._start, self._cpu_start = time.monotonic(), _cpu_seconds()
        self._written = -_PROGRESS_SECONDS
        self._before = Progress(step=0, total=0, seconds=0.0)
        with suppress(FileNotFoundError, ValueError):
            self._before = Progress.model_validate_json(path.read_text("utf-8"))

    @property
    def seconds(self) -> float:
        """Seconds worked on this stage, those of killed attempts included as far as they were reported."""
        return self._before.seconds + time.monotonic() - self._start

    @property
    def cpu_seconds(self) -> float:
        """The same of processors: what this process and those it has waited for used of them."""
        return self._before.cpu_seconds + _cpu_seconds() - self._cpu_start

    def report(self, step: int, total: int, note: str = "") -> None:
        """Say that `step` of `total` is done. Not written more than once a second, the last step always."""
        now = time.monotonic()
        if step < total and now - self._written < _PROGRESS_SECONDS:
            return
        self._written = now
        progress = Progress(step=step, total=total, seconds=self.seconds, cpu_seconds=self.cpu_seconds, note=note)
        write_atomic(self._path, progress.model_dump_json(), durable=False)


def perform(store: Store, order: Order) -> None:
    """Run the stage and commit its artifact. Raises whatever the kind raises."""
    work = store.layout.work(order.key)
    started, attempts = datetime.now(UTC).isoformat(timespec="seconds"), _count_attempt(work)
    print(f"--- attempt {attempts} of {order.kind} {order.key} ({order.label}), {started}", flush=True)
    store.clear_failure(order.key)
    kind = get_kind(order.kind)
    config = kind.Config.model_validate(order.config)
    _require_same_code(order, kind, versions_used(kind, config))
    stopwatch = Stopwatch(work / "progress.json")
    place = place_of(store, order, _fresh_out(work), stopwatch)
    summary = kind.run(place, config, read_inputs(store, order, kind))
    store.commit(order, place.out, summary, Effort(
        started=started, seconds=stopwatch.seconds, cpu_seconds=stopwatch.cpu_seconds, attempts=attempts))


def place_of(store: Store, order: Order, out: Path, stopwatch: Stopwatch) -> Place:
    """Where the stage works; what it leaves in `out` becomes the artifact."""
    return Place(key=order.key, label=order.label, work=store.layout.work(order.key), out=out, shared=store.layout.root,
                 hardware=order.stage_hardware, progress=stopwatch.report)


def read_inputs(store: Store, order: Order, kind: Kind) -> Any:
    """The kind's `Inputs` with folders of artifacts.

    Raises UserError when one is missing, or not as long as it was when committed.
    """
    names = {field.name for field in fields(kind.Inputs)}
    if unknown := sorted(order.inputs.keys() - names):
        raise UserError(f"{order.label}: stage '{order.kind}' reads no input '{unknown[0]}', only {sorted(names)}")
    return kind.Inputs(**{
        name: _folder(store, order, name, key) if isinstance(key, str)
        else {inner: _folder(store, order, f"{name}.{inner}", one) for inner, one in key.items()}
        for name, key in order.inputs.items()})


def _folder(store: Store, order: Order, name: str, key: str) -> Path:
    if not store.committed(key):
        raise UserError(f"{order.label}: input '{name}' ({key}) is gone; run the command again to rebuild it")
    for problem in store.problems(key, contents=False):
        raise UserError(f"{order.label}: input '{name}' is damaged ({problem}); delete its folder and run again")
    return store.layout.object(key)


def _require_same_code(order: Order, kind: Kind, uses: dict[str, str]) -> None:
    now = {f"stages.kinds.{order.kind}": stamp(kind)} | uses
    for name, planned in ({f"stages.kinds.{order.kind}": order.version} | order.uses).items():
        if now.get(name) != planned:
            raise UserError(f"{order.label}: code of {name} is now version {now.get(name)}, planned as {planned}; "
                            "run the command again")


def _cpu_seconds() -> float:
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def _fresh_out(work: Path) -> Path:
    """An empty folder of this attempt's own, so that even two producers of one key could not mix their files."""
    for stale in work.glob("out-*"):
        shutil.rmtree(stale, ignore_errors=True)
    out = work / f"out-{uuid.uuid4().hex}"
    out.mkdir()
    return out


def _count_attempt(work: Path) -> int:
    path = work / "attempts"
    attempts = 1
    with suppress(FileNotFoundError, ValueError):
        attempts = int(path.read_text("utf-8")) + 1
    write_atomic(path, str(attempts), durable=False)
    return attempts
