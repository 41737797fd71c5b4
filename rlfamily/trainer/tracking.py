"""Mirror a run's records to Weights & Biases. The run's own files stay the source of truth."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

from rlfamily.errors import UserError
from rlfamily.trainer.loop import StepRecord


class Tracker(Protocol):
    """Takes records as they come, and all metrics at the end."""

    def log(self, record: StepRecord) -> None:
        """One step, as it happens."""

    def finish(self, metrics: list[dict[str, Any]]) -> None:
        """The whole run, once it is complete."""


class NoTracker:
    """Records nothing."""

    def log(self, record: StepRecord) -> None:
        """Ignore the step."""

    def finish(self, metrics: list[dict[str, Any]]) -> None:
        """Ignore the run."""


class OfflineTracker:
    """Writes one complete offline run at the end, from the run's own files: a crash leaves no torn second copy."""

    def __init__(self, folder: Path, key: str, label: str, config: dict[str, Any]) -> None:
        self.folder, self.key, self.label, self.config = folder, key, label, config

    def log(self, record: StepRecord) -> None:
        """Nothing yet: the run may still crash and repeat steps."""

    def finish(self, metrics: list[dict[str, Any]]) -> None:
        """Write wandb/offline-run-* into the folder; `wandb sync` uploads it."""
        run = _start("offline", self.folder, self.key, self.label, self.config)
        for row in metrics:
            run.log(row, step=int(row["step"]))
        run.finish()


class OnlineTracker:
    """Streams steps to the server under the run's key; a resumed run continues the same record."""

    def __init__(self, folder: Path, key: str, label: str, config: dict[str, Any]) -> None:
        if not os.environ.get("WANDB_API_KEY"):
            raise UserError("wandb=online needs WANDB_API_KEY in the environment: set it, or use wandb=offline")
        self.run = _start("online", folder, key, label, config)

    def log(self, record: StepRecord) -> None:
        """Send one step."""
        self.run.log(record.metrics | record.timings, step=record.step)

    def finish(self, metrics: list[dict[str, Any]]) -> None:
        """Close the record."""
        self.run.finish()


def make_tracker(mode: str, folder: Path, key: str, label: str, config: dict[str, Any]) -> Tracker:
    """The tracker for `wandb=off|offline|online`. Raises UserError when online is asked for without a key."""
    if mode == "off":
        return NoTracker()
    return (OfflineTracker if mode == "offline" else OnlineTracker)(folder, key, label, config)


def _start(mode: str, folder: Path, key: str, label: str, config: dict[str, Any]) -> Any:
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True,
                              x_disable_meta=True)
    return wandb.init(project="rlfamily", id=key, name=label, config=config, dir=str(folder), resume="allow",
                      mode=mode, settings=settings)  # type: ignore[arg-type]
