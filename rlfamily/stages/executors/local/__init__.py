"""Workers as processes of this machine, forked from a server that has the heavy imports done.

The driver stays light (it never imports torch); a worker starts in milliseconds. A worker outlives a killed driver and
commits on its own. Started again, the same command submits the same key; that worker waits and finds the artifact.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Self

import psutil

from rlfamily.hardware import Hardware
from rlfamily.records import Layout
from rlfamily.stages.executors import Finished
from rlfamily.stages.executors.local import reaper, slots, worker
from rlfamily.stages.graph import Node
from rlfamily.stages.kind import KINDS_PATH
from rlfamily.stages.worker import COMMITTED, FAILED

WORKER_ENVIRONMENT = {
    # One thread per process: slots are cores, and sums in one order give the same bytes on every machine.
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONHASHSEED": "0",
    # setproctitle, which vLLM's processes call, would write over their environment, and over the reaper's marks in it.
    "SPT_NOENV": "1",
}
"""Set before the fork server starts, because libraries read it when they are imported."""

PASSED = (KINDS_PATH, "CUDA_VISIBLE_DEVICES")
"""What a worker has from its driver, and not from the fork server, which may be older."""

_SERVER_LOST = 255
"""Exit code that multiprocessing reports for a process whose fork server is gone."""

_STARTS, _SERVER_DIES_SECONDS = 3, 0.1


class LocalExecutor:
    """Runs tasks in forked processes, at most `capacity` at once.

    root      results root
    capacity  processes at once; what they may occupy together is limited by the slots of their hardware
    preload   modules that the fork server imports before the first fork, e.g. ["torch", "peft"]; the first executor of
              a process decides, because there is one fork server
    grace     seconds between SIGTERM and SIGKILL when closed by force
    """

    def __init__(self, root: Path | str, capacity: int, preload: Sequence[str], grace: float) -> None:
        self._root = str(Path(root).resolve())
        self._capacity = capacity
        self._grace = grace
        self._started = False
        self._lost: list[Finished] = []
        self._processes: dict[str, ForkServerProcess] = {}
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["rlfamily.stages.executors.local.worker", *preload])

    def check(self, node: Node) -> None:
        """Raise UserError when this machine has too few slots for the stage, or no GPU."""
        slots.Slots.of(node.hardware)

    @property
    def capacity(self) -> int:
        """How many tasks may be submitted and not yet finished."""
        return self._capacity

    def submit(self, key: str) -> None:
        """Fork a worker for `key`. The first call starts the fork server and waits for its imports."""
        environment = {name: os.environ[name] for name in PASSED if name in os.environ}
        process = self._context.Process(target=worker.main, args=(self._root, key, environment), name=key)
        self._started = True
        with _environment({**WORKER_ENVIRONMENT, reaper.DRIVER_MARK: reaper.driver_token()}), _no_main_module():
            if _start(process):
                self._processes[key] = process
            else:
                self._lost.append(Finished(key, "died", _SERVER_LOST))

    def poll(self, timeout: float) -> list[Finished]:
        """Return the workers that ended since the last call, after at most `timeout` seconds."""
        lost, self._lost = self._lost, []
        wait([process.sentinel for process in self._processes.values()], 0 if lost else timeout)
        codes = {key: process.exitcode for key, process in self._processes.items()}
        ended = [_finished(key, code) for key, code in codes.items() if code is not None]
        for finished in ended:
            self._processes.pop(finished.key).close()
        return lost + ended

    def close(self, force: bool) -> None:
        """Wait for running workers, or with `force` end them (SIGTERM, then SIGKILL); then end all that they left."""
        if force:
            reaper.kill(self._descendants(), self._grace)
        for process in self._processes.values():
            process.join()
            process.close()
        self._processes.clear()
        if self._started:
            reaper.kill(self._descendants())
        slots.reap_free(Layout(self._root).artifacts)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(force=kind is not None)

    def _descendants(self) -> list[psutil.Process]:
        """Workers and what they started. The fork server and its tracker, our own children, end with the driver."""
        servers = {child.pid for child in psutil.Process().children()}
        return reaper.marked(reaper.DRIVER_MARK, reaper.driver_token(), servers)


def _start(process: ForkServerProcess) -> bool:
    """Fork; when the fork server was just killed, try again with a new one. Two workers of one key are harmless."""
    for _ in range(_STARTS):
        try:
            process.start()
        except (EOFError, OSError):
            time.sleep(_SERVER_DIES_SECONDS)
        else:
            return True
    return False


def _finished(key: str, code: int) -> Finished:
    """A negative code is a signal, _SERVER_LOST is no code at all, others come from a library that called exit."""
    exited = code in (COMMITTED, FAILED)
    return Finished(key, "exited" if exited else "died", code)


@contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    """Set variables for what is started inside; the driver's other children must not carry its mark."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _no_main_module() -> Iterator[None]:
    """Hide the driver's __main__ from multiprocessing, which would run it again in every worker.

    Nothing of a worker lives there, the rerun costs its imports each time, and it fails for scripts without a guard,
    for notebooks and for code from standard input.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def start(root: Path | str, hardware: Hardware, preload: Sequence[str], grace: float) -> LocalExecutor:
    """As many processes as this machine has room for. Raises UserError when it has none, or no GPU is visible."""
    return LocalExecutor(root, slots.Slots.of(hardware).capacity, preload, grace)
