"""Mirror a run's records to Weights & Biases. The run's own files stay the source of truth.

Held-out scores come from a later stage, which resumes the run by its name and writes into its summary. A resumed
offline run is a folder of its own, which `wandb sync` uploads after the first; the summary that it brings takes the
place of the first's, so it brings the last values of the curves too.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rlfamily.errors import UserError
from rlfamily.trainer.loop import StepRecord

TAGS = ("task", "model", "algorithm")


@dataclass(frozen=True)
class Mirrored:
    """A run as the mirror shows it: by its key, under its label, with all its settings.

    `names` are what was chosen in each group of settings, and the `table` that groups it with its neighbours.
    """

    folder: Path
    key: str
    label: str
    config: dict[str, Any]
    names: dict[str, str]


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

    def __init__(self, mirrored: Mirrored) -> None:
        self.mirrored = mirrored

    def log(self, record: StepRecord) -> None:
        """Nothing yet: the run may still crash and repeat steps."""

    def finish(self, metrics: list[dict[str, Any]]) -> None:
        """Write wandb/offline-run-* into the folder; `wandb sync` uploads it."""
        import wandb

        run = _start("offline", self.mirrored)
        for row in metrics:
            run.log(_prefixed(row), step=int(row["step"]))
        run.finish()
        wandb.teardown()  # waits for the process that writes: what a stage leaves behind is ended with it


class OnlineTracker:
    """Streams steps to the server under the run's key; a resumed run continues the same record."""

    def __init__(self, mirrored: Mirrored) -> None:
        if not os.environ.get("WANDB_API_KEY"):
            raise UserError("wandb=online needs WANDB_API_KEY in the environment: set it, or use wandb=offline")
        self.run = _start("online", mirrored)

    def log(self, record: StepRecord) -> None:
        """Send one step."""
        self.run.log(_prefixed(record.metrics | record.timings), step=record.step)

    def finish(self, metrics: list[dict[str, Any]]) -> None:
        """Close the record."""
        self.run.finish()


def make_tracker(mode: str, mirrored: Mirrored) -> Tracker:
    """The tracker for `wandb=off|offline|online`. Raises UserError when online is asked for without a key."""
    if mode == "off":
        return NoTracker()
    return (OfflineTracker if mode == "offline" else OnlineTracker)(mirrored)


def mirror_scores(mode: str, mirrored: Mirrored, metrics: list[dict[str, Any]], scores: dict[str, float]) -> None:
    """Write `scores` into the summary of a run that has ended, under eval/; `metrics` are the rows of its curves.

    What `mirrored` leaves empty (settings, names) stays as the run has it.
    """
    import wandb

    run = _start(mode, mirrored)
    last = {name: value for row in metrics for name, value in _prefixed(row).items() if name != "step"}
    run.summary.update(last | {f"eval/{name}": value for name, value in scores.items()})
    run.finish()
    wandb.teardown()  # as above


def _prefixed(row: dict[str, Any]) -> dict[str, Any]:
    """Curves of training stand apart from what else a project shows."""
    return {name if name == "step" else f"train/{name}": value for name, value in row.items()}


def _start(mode: str, mirrored: Mirrored) -> Any:
    import wandb

    mirrored.folder.mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True,
                              x_disable_meta=True)
    names = mirrored.names
    config = mirrored.config | ({"names": names} if names else {})
    return wandb.init(
        project="rlfamily", id=mirrored.key, name=mirrored.label, config=config,
        group=names.get("table"), tags=[names[group] for group in TAGS if group in names] or None,
        dir=str(mirrored.folder), resume="allow", mode=mode, settings=settings)  # type: ignore[arg-type]
