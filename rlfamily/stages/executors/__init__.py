"""Where workers run. An executor is given keys and says how their processes ended; the store says everything else.

`rlfamily.stages.worker.run_task(root, key)` is what it has to get started, on any machine that sees the results root.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, cast

from rlfamily.errors import UserError, nearest

if TYPE_CHECKING:
    from rlfamily.hardware import Hardware
    from rlfamily.stages.graph import Node


@dataclass(frozen=True)
class Finished:
    """How a worker ended: "exited" by itself, `code` is run_task's; or "died", killed or lost, and may be retried."""

    key: str
    outcome: Literal["exited", "died"]
    code: int


class Executor(Protocol):
    """A way to run stages; `close` returns when none of its processes are left."""

    def check(self, node: Node) -> None:
        """Raise UserError, before anything starts, when this executor can never place the stage."""
        ...

    @property
    def capacity(self) -> int:
        """How many tasks may be submitted and not yet finished."""
        ...

    def submit(self, key: str) -> None:
        """Start what work/<key>/order.json says; return without waiting for it."""
        ...

    def poll(self, timeout: float) -> list[Finished]:
        """Return the tasks that ended since the last call, after at most `timeout` seconds; [] when there are none."""
        ...

    def close(self, force: bool) -> None:
        """Wait for running tasks, or with `force` end them. Nothing that they started outlives this call."""
        ...


class ExecutorModule(Protocol):
    """What a module, or a folder, here offers."""

    def start(
        self, root: Path | str, hardware: Hardware, preload: Sequence[str], grace: float
    ) -> AbstractContextManager[Executor]:
        """An executor of stages on that hardware.

        `preload` names modules that workers will import, `grace` is the seconds between asking one to end and ending
        it. Raises UserError when no stage at all could be placed.
        """
        ...


def names() -> list[str]:
    """Every executor that has a file or a folder here, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))


def require(name: str) -> None:
    """Raise UserError naming the nearest executor when there is no `name`."""
    if name not in names():
        raise UserError(f"executor: no '{name}' in rlfamily/stages/executors{nearest(name, names())}; "
                        f"there is {', '.join(names())}")


def get(name: str) -> ExecutorModule:
    """Return the module of executor `name`. Raises UserError naming the nearest when there is none."""
    require(name)
    return cast(ExecutorModule, importlib.import_module(f"rlfamily.stages.executors.{name}"))
