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
from typing import Any

from filelock import FileLock, Timeout

from rlfamily.errors import UserError
from rlfamily.stages.executors.local import reaper

_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Pool:
    """The slots that a stage may use, and how many of them it takes at once.

    devices   GPU indices (or ids) as CUDA_VISIBLE_DEVICES spells them; CPU slots are just numbered
    """

    kind: str
    devices: tuple[str, ...]
    need: int

    @classmethod
    def of(cls, hardware: dict[str, Any]) -> Pool:
        """Read {"kind": "cpu" | "gpu", "slots": int | list of GPU ids, "processes": int}; other keys are the kind's.

        `slots` 0 means one per core, or one per visible GPU. A stage takes `processes` of them together, and after
        those the `server_slots` (0 when absent) of a server that it starts.
        Raises UserError when a key is missing or the machine has too few.
        """
        try:
            kind, slots, processes = hardware["kind"], hardware["slots"], hardware["processes"]
        except KeyError as error:
            raise UserError(f"hardware: {error} is missing; a stage needs kind, slots and processes") from None
        need = processes + hardware.get("server_slots", 0)
        if kind not in ("cpu", "gpu"):
            raise UserError(f"hardware.kind: '{kind}' is neither cpu nor gpu")
        devices = _devices(kind, slots)
        if not devices:
            raise UserError("hardware.kind: no GPU is visible on this machine: use hardware=cpu, or check nvidia-smi "
                            "and CUDA_VISIBLE_DEVICES")
        if not 0 < need <= len(devices):
            raise UserError(f"hardware.processes: {need} at once, but there are {len(devices)} {kind} slots here")
        return cls(kind, devices, need)

    @property
    def capacity(self) -> int:
        """Stages that fit at once."""
        return len(self.devices) // self.need


def _devices(kind: str, slots: int | list[int] | list[str]) -> tuple[str, ...]:
    if isinstance(slots, list):
        return tuple(str(device) for device in slots)
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
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        return tuple(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    except (OSError, subprocess.CalledProcessError):
        return ()


@contextmanager
def hold(artifacts: Path, pool: Pool, holder: reaper.Holder) -> Iterator[tuple[str, ...]]:
    """Wait for `pool.need` free slots, free them of leftovers, and hold them; yields their devices."""
    folder = artifacts / "slots" / platform.node()
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        # One waiter at a time, so that a stage of several GPUs is not starved by stages of one, nor deadlocked.
        with _lock(folder / f"queue-{pool.kind}.lock"):
            devices = _take(folder, pool, stack)
        names = [folder / f"{pool.kind}-{device}.json" for device in devices]
        for name in names:
            reaper.succeed(name, holder)
        try:
            yield devices
        finally:
            reaper.leave_nothing(holder)
            for name in names:
                name.unlink(missing_ok=True)


def reap_free(artifacts: Path) -> None:
    """End what dead holders left on slots of this host that nobody has taken since."""
    for name in (artifacts / "slots" / platform.node()).glob("*.json"):
        with ExitStack() as stack:
            if _try_lock(name.with_suffix(".lock"), stack):
                reaper.bury(name)
                name.unlink(missing_ok=True)


def _take(folder: Path, pool: Pool, stack: ExitStack) -> tuple[str, ...]:
    taken: list[str] = []
    while True:
        for device in pool.devices:
            if device not in taken and _try_lock(folder / f"{pool.kind}-{device}.lock", stack):
                taken.append(device)
            if len(taken) == pool.need:
                # In the pool's order, whatever order they came free in: rank 0 is the same GPU every time.
                return tuple(sorted(taken, key=pool.devices.index))
        time.sleep(_POLL_SECONDS)


def _try_lock(path: Path, stack: ExitStack) -> bool:
    try:
        stack.enter_context(_lock(path).acquire(blocking=False))
    except Timeout:
        return False
    return True


def _lock(path: Path) -> FileLock:
    return FileLock(path, fallback_to_soft=False)
