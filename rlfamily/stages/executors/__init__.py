"""Where workers run. An executor is given keys and says how their processes ended; the store says everything else.

`rlfamily.stages.worker.run_task(root, key)` is what it has to get started, on any machine that sees the results root.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True)
class Finished:
    """How a worker ended: "exited" by itself, `code` is run_task's; or "died", killed or lost, and may be retried."""

    key: str
    outcome: Literal["exited", "died"]
    code: int


class Executor(Protocol):
    """Two methods and a number; `close` returns when none of its processes are left."""

    @property
    def capacity(self) -> int:
        """How many tasks may be submitted and not yet finished."""
        ...

    def submit(self, key: str) -> None:
        """Start the task of work/<key>/task.json; return without waiting for it."""
        ...

    def poll(self, timeout: float) -> list[Finished]:
        """Return the tasks that ended since the last call, after at most `timeout` seconds; [] when there are none."""
        ...

    def close(self, force: bool) -> None:
        """Wait for running tasks, or with `force` end them. Nothing that they started outlives this call."""
        ...
