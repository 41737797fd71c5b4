"""One stage, in a process of its own: `run_task(root, key)` is all that an executor has to start somewhere.

It may be started any number of times, anywhere that sees the results root: one start produces the artifact, the others
wait for the key's lock and find it. Killed at any moment, the next start goes on from the stage's own checkpoints.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from rlfamily.errors import UserError
from rlfamily.records import Failure, Progress, write_atomic
from rlfamily.stages.executors.local import reaper, slots
from rlfamily.stages.graph import get_kind
from rlfamily.stages.store import Effort, Store, Task

COMMITTED, FAILED = 0, 1
"""Exit codes. Any other means that the process died without a word."""

_PROGRESS_SECONDS = 1.0
_TRACEBACK_CHARACTERS = 6000


class Stopwatch:
    """Writes progress.json, and counts a stage's seconds over all its attempts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._start = time.monotonic()
        self._written = -_PROGRESS_SECONDS
        self._before = 0.0
        with suppress(FileNotFoundError, ValueError):
            self._before = Progress.model_validate_json(path.read_text()).seconds

    @property
    def seconds(self) -> float:
        """Seconds worked on this stage, those of killed attempts included as far as they were reported."""
        return self._before + time.monotonic() - self._start

    def report(self, step: int, total: int, note: str) -> None:
        """Say that `step` of `total` is done. Not written more than once a second, the last step always."""
        now = time.monotonic()
        if step < total and now - self._written < _PROGRESS_SECONDS:
            return
        self._written = now
        progress = Progress(step=step, total=total, seconds=self.seconds, note=note)
        write_atomic(self._path, progress.model_dump_json(), durable=False)


@dataclass(frozen=True)
class StageContext:
    """What a kind's `run` is given.

    key, label  name of the artifact to be, and of the stage for people
    config      the node's config
    inputs      folder of each input's artifact; read only
    work        a folder that survives crashes: checkpoints go here, beside the engine's own task.json, progress.json,
                holder.json, attempts, log.txt and out-*
    out         an empty folder that becomes the artifact when `run` returns
    hardware    the node's hardware, which can change nothing but speed
    """

    key: str
    label: str
    config: dict[str, Any]
    inputs: dict[str, Path]
    work: Path
    out: Path
    hardware: dict[str, Any]

    def progress(self, step: int, total: int, note: str = "") -> None:
        """Report that `step` of `total` is done; cheap to call at every step, written at most once a second."""
        self.stopwatch.report(step, total, note)

    @cached_property
    def stopwatch(self) -> Stopwatch:
        """Runs from its first use; the worker starts it just before `run`."""
        return Stopwatch(self.work / "progress.json")


def run_task(root: str, key: str, own_session: bool = False) -> int:
    """Bring stage `key` to its artifact; return COMMITTED or FAILED (then failed/<key>.json says why).

    Waits while another process produces the same key, then for a free slot of the task's hardware. Changes the
    environment of the process (CUDA_VISIBLE_DEVICES), so one process runs one task at a time. `own_session`: the caller
    opened a session for this task, and whatever stays behind in it is to be ended.
    Raises FileNotFoundError when nobody wrote a task for `key`.
    """
    store = Store(root)
    if store.committed(key):
        return COMMITTED
    with store.lock(key):
        if store.committed(key):
            return COMMITTED
        task = store.task(key)
        work = store.layout.work(key)
        with _output_to(work / "log.txt"):
            try:
                _occupy(store, task, work, own_session)
            except (Exception, SystemExit) as error:
                traceback.print_exc()
                store.fail(_describe(store, task, error))
                return FAILED
        store.forget_work(key)
    return COMMITTED


def main(root: str, key: str, environment: dict[str, str]) -> None:
    """Body of a worker process: lead an own session, run one task, exit with its code."""
    os.setsid()
    os.environ.update(environment)
    _own_progress_lock()
    sys.exit(run_task(root, key, own_session=True))


def _own_progress_lock() -> None:
    """Give tqdm a lock of this process: all forks share its own, and one killed while holding it stops them all."""
    if "tqdm" in sys.modules:
        sys.modules["tqdm"].tqdm.set_lock(threading.RLock())


def _occupy(store: Store, task: Task, work: Path, own_session: bool) -> None:
    """Take the task's slots, show them to the stage and to everything it starts, and perform it."""
    holder = reaper.this_process(own_session)
    # A dead attempt at this very stage may have left something that still writes into its work folder.
    reaper.succeed(work / "holder.json", holder)
    os.environ[reaper.SLOT_MARK] = holder.token
    pool = slots.Pool.of(task.hardware)
    with slots.hold(store.layout.artifacts, pool, holder) as devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(devices) if pool.kind == "gpu" else ""
        try:
            _perform(store, task, work)
        finally:
            (work / "holder.json").unlink(missing_ok=True)


def _perform(store: Store, task: Task, work: Path) -> None:
    started, attempts = datetime.now(UTC).isoformat(timespec="seconds"), _count_attempt(work)
    print(f"--- attempt {attempts} of {task.kind} {task.key} ({task.label}), {started}", flush=True)
    store.clear_failure(task.key)
    kind = get_kind(task.kind)
    if task.version != kind.VERSION:
        raise UserError(
            f"{task.label}: code of stage '{task.kind}' is now version {kind.VERSION}, "
            f"planned as {task.version}; run the command again"
        )
    context = StageContext(
        key=task.key,
        label=task.label,
        config=task.config,
        inputs=_inputs(store, task),
        work=work,
        out=_fresh_out(work),
        hardware=task.hardware,
    )
    stopwatch = context.stopwatch
    summary = kind.run(context)
    store.commit(task, context.out, summary, Effort(started=started, seconds=stopwatch.seconds, attempts=attempts))


def _fresh_out(work: Path) -> Path:
    """An empty folder of this attempt's own, so that even two producers of one key could not mix their files."""
    for stale in work.glob("out-*"):
        shutil.rmtree(stale, ignore_errors=True)
    out = work / f"out-{os.environ[reaper.SLOT_MARK]}"
    out.mkdir()
    return out


def _inputs(store: Store, task: Task) -> dict[str, Path]:
    """Folders of the inputs. Raises UserError when one is missing or not as long as it was when committed."""
    folders = {}
    for name, key in task.inputs.items():
        if not store.committed(key):
            raise UserError(f"{task.label}: input '{name}' ({key}) is gone; run the command again to rebuild it")
        for problem in store.problems(key, contents=False):
            raise UserError(f"{task.label}: input '{name}' is damaged ({problem}); delete its folder and run again")
        folders[name] = store.layout.object(key)
    return folders


def _count_attempt(work: Path) -> int:
    path = work / "attempts"
    attempts = int(path.read_text()) + 1 if path.exists() else 1
    write_atomic(path, str(attempts), durable=False)
    return attempts


def _describe(store: Store, task: Task, error: BaseException) -> Failure:
    text = str(error).strip() or "no message"
    if isinstance(error, SystemExit):
        text = f"the stage called sys.exit({error.code})"
    elif not isinstance(error, UserError):
        text = f"{type(error).__name__}: {text}"
    return Failure(
        key=task.key,
        kind=task.kind,
        label=task.label,
        error=text.splitlines()[0],
        traceback="".join(traceback.format_exception(error))[-_TRACEBACK_CHARACTERS:],
        log=(store.layout.work(task.key) / "log.txt").relative_to(store.layout.root).as_posix(),
        when=datetime.now(UTC).isoformat(timespec="seconds"),
    )


@contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Append what this process and its children print to `path`, line by line, so that a kill loses none of it."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    saved = [os.dup(descriptor) for descriptor in (1, 2)]
    with path.open("a", buffering=1) as log:
        # The descriptors are for children and libraries; the Python streams may be a notebook's and write elsewhere.
        for descriptor in (1, 2):
            os.dup2(log.fileno(), descriptor)
        try:
            with redirect_stdout(log), redirect_stderr(log):
                yield
        finally:
            for descriptor, old in zip((1, 2), saved, strict=True):
                os.dup2(old, descriptor)
                os.close(old)
