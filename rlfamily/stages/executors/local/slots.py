"""Kernel locks on the CPU and GPU slots of this machine: who runs where, across drivers and users of one store.

A slot is a lock file. The kernel frees it when its holder dies in any way; the next holder first ends what the last one
left behind. Slots are per host, because a store may be on a shared file system.
"""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from rlfamily.errors import UserError
from rlfamily.hardware import Hardware, StageHardware
from rlfamily.stages.executors.local import reaper

_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Slots:
    """The slots that a stage may use, and how many of them it takes at once.

    devices   GPU indices (or ids) as CUDA_VISIBLE_DEVICES spells them; CPU slots are just numbered
    names     what each slot is called by all processes of this host: a GPU by its UUID where that is known, since two
              jobs that each see one GPU of their own both call it 0
    """

    kind: str
    devices: tuple[str, ...]
    need: int
    names: tuple[str, ...]

    @classmethod
    def of(cls, hardware: Hardware) -> Slots:
        """`slots` 0 means one per core, or one per visible GPU. A stage takes `processes` of them together, and after
        those the `server_slots` of a server that it starts.

        Raises UserError when the machine has too few.
        """
        kind, servers = hardware.kind, hardware.server_slots if isinstance(hardware, StageHardware) else 0
        need, devices = hardware.processes + servers, _devices(kind, hardware.slots)
        if not devices:
            raise UserError("hardware.kind: no GPU is visible on this machine: use hardware=cpu, or check nvidia-smi "
                            "and CUDA_VISIBLE_DEVICES")
        if need > len(devices):
            raise UserError(f"hardware.processes: {need} at once, but there are {len(devices)} {kind} slots here")
        known = _uuids() if kind == "gpu" else {}
        return cls(kind, devices, need, tuple(known.get(device, device) for device in devices))

    @property
    def capacity(self) -> int:
        """Stages that fit at once."""
        return len(self.devices) // self.need


def _devices(kind: str, slots: int) -> tuple[str, ...]:
    if kind == "cpu":
        return tuple(str(number) for number in range(slots or len(os.sched_getaffinity(0))))
    visible = _visible_gpus()
    if slots > len(visible):
        raise UserError(f"hardware.slots: {slots} GPU slots, but {len(visible)} GPUs are visible")
    return visible[: slots or len(visible)]


def _visible_gpus() -> tuple[str, ...]:
    """CUDA_VISIBLE_DEVICES when it is set, else every GPU that nvidia-smi lists; torch is not needed to count."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return tuple(device.strip() for device in chosen.split(",") if device.strip())
    return tuple(_uuids())


def _uuids() -> dict[str, str]:
    """UUID by index of the GPUs that nvidia-smi lists; empty without it. A device that is no index is its own name."""
    command = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return {}
    rows = [[cell.strip() for cell in line.split(",")] for line in lines if line.strip()]
    return {row[0]: row[-1] for row in rows}


@contextmanager
def hold(artifacts: Path, wanted: Slots, holder: reaper.Holder) -> Iterator[tuple[str, ...]]:
    """Wait for `wanted.need` free slots, free them of leftovers, and hold them; yields their devices."""
    folder = artifacts / "slots" / platform.node()
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        # One waiter at a time, so that a stage of several GPUs is not starved by stages of one, nor deadlocked.
        with _lock(folder / f"queue-{wanted.kind}.lock"):
            places = _take(folder, wanted, stack)
        records = [folder / f"{wanted.kind}-{wanted.names[place]}.json" for place in places]
        for record in records:
            reaper.succeed(record, holder)
        try:
            yield tuple(wanted.devices[place] for place in places)
        finally:
            reaper.leave_nothing(holder)
            for record in records:
                record.unlink(missing_ok=True)


def reap_free(artifacts: Path) -> None:
    """End what dead holders left on slots of this host that nobody has taken since."""
    for name in (artifacts / "slots" / platform.node()).glob("*.json"):
        with ExitStack() as stack:
            if _try_lock(name.with_suffix(".lock"), stack):
                reaper.bury(name)
                name.unlink(missing_ok=True)


def _take(folder: Path, wanted: Slots, stack: ExitStack) -> list[int]:
    """Places among the devices, in their order, whatever order they came free in: rank 0 is the same GPU every time."""
    taken: list[int] = []
    while True:
        for place, name in enumerate(wanted.names):
            if place not in taken and _try_lock(folder / f"{wanted.kind}-{name}.lock", stack):
                taken.append(place)
            if len(taken) == wanted.need:
                return sorted(taken)
        time.sleep(_POLL_SECONDS)


def _try_lock(path: Path, stack: ExitStack) -> bool:
    try:
        stack.enter_context(_lock(path).acquire(blocking=False))
    except Timeout:
        return False
    return True


def _lock(path: Path) -> FileLock:
    return FileLock(path, fallback_to_soft=False)
