"""Run stages with live progress and say what became of them: shared by the two command lines."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlfamily.errors import UserError, nearest
from rlfamily.records import Layout

if TYPE_CHECKING:
    from rlfamily.hardware import Hardware
    from rlfamily.stages.graph import Node

PRELOAD = ("torch", "transformers.models.qwen2.modeling_qwen2", "accelerate", "rlfamily.trainer.jobs")
PRELOAD_VLLM = ("rlfamily.rollout.vllm_engine",)  # on CPUs only: on GPUs a fork must not find CUDA in use
GRACE_SECONDS = 30.0  # between asking a worker to end and ending it

OK, FAILED, USAGE, INCOMPLETE, INTERRUPTED = 0, 1, 2, 3, 130


def guarded(main: Callable[[], int]) -> int:
    """Call `main`; a UserError becomes its one line on stderr and exit code 2."""
    try:
        return main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE


def execute(nodes: Iterable[Node], results: str, hardware: Hardware, executor: str) -> dict[str, Any]:
    """Bring `nodes` to their artifacts; returns what became of each stage by key.

    Raises UserError when the executor is unknown, the machine too small or vllm missing, Interrupted after Ctrl-C.
    """
    from rlfamily.rollout.settings import uses_vllm
    from rlfamily.stages.executors.local.slots import Pool
    from rlfamily.stages.progress import view
    from rlfamily.stages.scheduler import needed, run_graph
    from rlfamily.stages.store import Store

    targets = list(nodes)
    preload: tuple[str, ...] = PRELOAD
    # Stages that ask a server of the user's own need no vllm here; what else of theirs does says so itself.
    if any(uses_vllm(node.settings) and node.hardware.vllm.server_url is None
           for node in needed(targets, Store(results))):
        from rlfamily.rollout.engines import require  # with torch behind it, so not before it is needed

        require("vllm")
        preload += PRELOAD_VLLM if hardware.kind == "cpu" else ()
    capacity = Pool.of(hardware.model_dump(mode="json")).capacity
    factory = find_executor(executor)
    with factory(results, capacity, preload, GRACE_SECONDS) as workers, view(targets, results, capacity) as watcher:
        return run_graph(targets, results, workers, watcher)


def failure_of(results: str, key: str, reason: str) -> str:
    """The reason with the place of the log that has the details."""
    log = Layout(results).work(key) / "log.txt"
    return f"{reason} (log: {log})" if log.exists() else reason


def executors() -> list[str]:
    """Names of the executors that have a file."""
    folder = Path(__file__).parent / "stages" / "executors"
    return sorted(module.name for module in pkgutil.iter_modules([str(folder)]))


def find_executor(name: str) -> Any:
    """The executor's class. Raises UserError, naming the nearest, when there is none."""
    if name not in executors():
        raise UserError(f"executor: no '{name}' in rlfamily/stages/executors{nearest(name, executors())}; "
                        f"there is {', '.join(executors())}")
    return importlib.import_module(f"rlfamily.stages.executors.{name}").EXECUTOR
