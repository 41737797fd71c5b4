"""Where and how a stage's work is done: folders, hardware, progress. Nothing here changes a number."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rlfamily.hardware import Hardware, StageHardware


class Report(Protocol):
    """Takes word that `step` of `total` is done; cheap to call at every step."""

    def __call__(self, step: int, total: int, note: str = "") -> None:
        """Say it."""
        ...


@dataclass(frozen=True)
class Place:
    """What a stage's `run` is given beside its config and inputs.

    key, label  name of the artifact to be, and of the stage for people
    work        a folder that survives crashes: checkpoints go here, beside the engine's own files
    out         an empty folder that becomes the artifact
    shared      a folder that all stages of a results root share, for answers and samples that cost something
    notes       what people must know of how it ran; it goes into the manifest's summary
    """

    key: str
    label: str
    work: Path
    out: Path
    shared: Path
    hardware: StageHardware
    progress: Report
    notes: dict[str, Any] = field(default_factory=dict)


def alone(folder: Path, hardware: Hardware, **changes: Any) -> Place:
    """A place outside any stage graph, for one job below `folder`; `changes` are to the hardware as a stage has it."""
    own = {"processes": 1, "server_slots": 0, "wandb": "off", "wandb_folder": str(folder), "wandb_names": {}}
    settings = StageHardware.model_validate(hardware.model_dump() | own | changes)
    for name in ("work", "out"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return Place("key", "label", folder / "work", folder / "out", folder, settings, lambda step, total, note="": None)
