"""Run stages with live progress and say what became of them: shared by the two command lines."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlfamily.errors import UserError
from rlfamily.records import Layout
from rlfamily.stages import executors

if TYPE_CHECKING:
    from rlfamily.hardware import Hardware
    from rlfamily.stages.graph import Node

PRELOAD = ("torch", "transformers.models.qwen2.modeling_qwen2", "accelerate", "rlfamily.trainer.jobs")
PRELOAD_VLLM = ("rlfamily.rollout.vllm_engine",)  # on CPUs only: on GPUs a fork must not find CUDA in use
GRACE_SECONDS = 30.0  # between asking a worker to end and ending it

_DISK = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG, errno.ENOTDIR)
OK, FAILED, USAGE, INCOMPLETE, INTERRUPTED = 0, 1, 2, 3, 130


def guarded(main: Callable[[], int]) -> int:
    """Call `main`; a UserError, or a disk that takes no more, becomes one line on stderr and exit code 2."""
    try:
        code = main()
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    except BrokenPipeError:  # whoever read our output has seen enough: `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the interpreter's last flush is silent
        return OK
    except OSError as error:
        if error.errno not in _DISK:
            raise
        print(f"error: {error.filename or 'results'}: {os.strerror(error.errno)}: mend that, or give another folder "
              "with results=FOLDER", file=sys.stderr)
    return USAGE


def require_writable(results: str) -> None:
    """Make the results folder. Raises UserError when it cannot be made or written to."""
    try:
        Path(results).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=results):
            pass
    except OSError as error:
        raise UserError(f"results: cannot write to {results} ({os.strerror(error.errno or 0)}): give another folder "
                        "with results=FOLDER") from error


def execute(nodes: Iterable[Node], results: str, hardware: Hardware, executor: str) -> dict[str, Any]:
    """Bring `nodes` to their artifacts; returns what became of each stage by key.

    Raises UserError when the executor is unknown or can never place a stage, or vllm is missing, Interrupted after
    Ctrl-C.
    """
    from rlfamily.stages.graph import topological
    from rlfamily.stages.progress import view
    from rlfamily.stages.scheduler import needed, outcomes, run_graph
    from rlfamily.stages.store import Store

    targets, store = list(nodes), Store(results)
    wanted = needed(targets, store)
    if wanted:
        require_writable(results)
    print(_standing(len(topological(targets)), len(wanted)))
    if not wanted:
        return outcomes(targets, store)
    started = executors.get(executor).start(results, hardware, _preload(wanted, hardware), GRACE_SECONDS)
    with started as workers, view(targets, results, workers.capacity) as watcher:
        return run_graph(targets, results, workers, watcher)


def _standing(stages: int, wanted: int) -> str:
    """How much of what was asked for is there, and is used again."""
    if not wanted:
        return f"reused   all {stages} stages: nothing to run"
    return f"reused   {stages - wanted} of {stages} stages; {wanted} to run"


def check_places(nodes: Iterable[Node], results: str, hardware: Hardware, executor: str) -> None:
    """Raise UserError when the executor is unknown, or can never place what of `nodes` must run; starts nothing."""
    from rlfamily.stages.scheduler import needed
    from rlfamily.stages.store import Store

    module, wanted = executors.get(executor), needed(nodes, Store(results))
    if wanted:
        with module.start(results, hardware, (), GRACE_SECONDS) as workers:
            for node in wanted:
                workers.check(node)


def _preload(wanted: Iterable[Node], hardware: Hardware) -> tuple[str, ...]:
    """What workers import once for all. Raises UserError when a stage wants vllm and it is not there.

    Stages that ask a server of the user's own need no vllm here; what else of theirs does says so itself.
    """
    from rlfamily.rollout.settings import uses_vllm

    if not any(uses_vllm(node.settings) and node.hardware.vllm.server_url is None for node in wanted):
        return PRELOAD
    from rlfamily.rollout.engines import require  # with torch behind it, so not before it is needed

    require("vllm")
    return PRELOAD + (PRELOAD_VLLM if hardware.kind == "cpu" else ())


def failure_of(results: str, key: str, reason: str) -> str:
    """The reason with the place of the log that has the details."""
    log = Layout(results).work(key) / "log.txt"
    return f"{reason} (log: {log})" if log.exists() else reason
