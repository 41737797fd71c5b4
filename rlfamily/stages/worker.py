"""One stage, in a process of its own: `run_task(root, key)` is all that an executor has to start somewhere.

It may be started any number of times, anywhere that sees the results root: one start produces the artifact, the others
wait for the key's lock and find it. Killed at any moment, the next start goes on from the stage's own checkpoints.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import UTC, datetime
from pathlib import Path

from rlfamily.errors import UserError
from rlfamily.records import Failure
from rlfamily.stages.executors.local import reaper, slots
from rlfamily.stages.perform import perform
from rlfamily.stages.store import Store, Task

COMMITTED, FAILED = 0, 1
"""Exit codes. Any other means that the process died without a word."""

_TRACEBACK_CHARACTERS = 6000


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
            perform(store, task)
        finally:
            (work / "holder.json").unlink(missing_ok=True)


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
