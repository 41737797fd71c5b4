"""A worker of this machine: a session of its own, the slots of its stage, and nothing left behind."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from rlfamily.stages.executors.local import reaper, slots
from rlfamily.stages.store import Order, Store
from rlfamily.stages.worker import run_task


def main(root: str, key: str, environment: dict[str, str]) -> None:
    """Body of a worker process: lead an own session, run one task, exit with its code."""
    os.setsid()
    os.environ.update(environment)
    _own_progress_lock()
    sys.exit(run_task(root, key, own_session))


def own_session(store: Store, order: Order) -> AbstractContextManager[None]:
    """The occupation of a process that opened its session for this task: whatever stays behind in it is ended."""
    return _occupied(store, order, reaper.this_process(own_session=True))


def shared_session(store: Store, order: Order) -> AbstractContextManager[None]:
    """The occupation of a process that has other business too, such as a notebook or a test."""
    return _occupied(store, order, reaper.this_process(own_session=False))


@contextmanager
def _occupied(store: Store, order: Order, holder: reaper.Holder) -> Iterator[None]:
    """Wait for the stage's slots, and show them to it and to everything it starts.

    Changes the environment of the process (CUDA_VISIBLE_DEVICES), so one process runs one task at a time.
    """
    path = store.layout.work(order.key) / "holder.json"
    # A dead attempt at this very stage may have left something that still writes into its work folder.
    reaper.succeed(path, holder)
    os.environ[reaper.SLOT_MARK] = holder.token
    wanted = slots.Slots.of(order.stage_hardware)
    with slots.hold(store.layout.artifacts, wanted, holder) as devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(devices) if wanted.kind == "gpu" else ""
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _own_progress_lock() -> None:
    """Give tqdm a lock of this process: all forks share its own, and one killed while holding it stops them all."""
    if "tqdm" in sys.modules:
        sys.modules["tqdm"].tqdm.set_lock(threading.RLock())
