"""Slots: how hardware becomes slots, exclusion, and release at any death."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from filelock import Timeout
from laboratory import shape

from rlfamily.errors import UserError
from rlfamily.stages.executors.local import reaper, slots
from rlfamily.stages.executors.local.slots import Slots
from rlfamily.stages.store import Store

REPOSITORY = Path(__file__).parents[2]


def hardware(**changes):
    return shape("unused", **changes)


def gpus(count, need):
    names = tuple(map(str, range(count)))
    return Slots("gpu", names, need, names)


def test_pools_of_cpus_and_gpus(monkeypatch):
    assert Slots.of(hardware()) == Slots("cpu", ("0", "1"), 1, ("0", "1"))
    assert Slots.of(hardware(slots=4, processes=2)).capacity == 2
    assert len(Slots.of(hardware(slots=0)).devices) == len(os.sched_getaffinity(0))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,7")
    assert Slots.of(hardware(kind="gpu", slots=0)).devices == ("3", "5", "7")
    assert Slots.of(hardware(kind="gpu", slots=2)).devices == ("3", "5")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (hardware(processes=3), "3 at once, but there are 2 cpu slots"),
        (hardware(processes=1, server_slots=2), "3 at once, but there are 2 cpu slots"),
        (hardware(kind="gpu", slots=2), "0 GPUs are visible"),
        (hardware(kind="gpu", slots=0), "no GPU is visible on this machine"),
    ],
)
def test_hardware_that_cannot_be_placed_is_refused(bad, message):
    with pytest.raises(UserError, match=message):
        Slots.of(bad)


def test_no_device_is_given_twice(tmp_path):
    """Eight takers of one or two of three slots, as threads with locks of their own: never more than three in use."""
    in_use, worst, guard = [], [], threading.Lock()

    def take(need):
        pool = gpus(3, need)
        with slots.hold(tmp_path, pool, reaper.this_process(own_session=False)) as devices:
            with guard:
                in_use.extend(devices)
                worst.append(len(in_use) - len(set(in_use)))
            threading.Event().wait(0.01)
            with guard:
                for device in devices:
                    in_use.remove(device)

    threads = [threading.Thread(target=take, args=(1 + number % 2,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(worst) == 8 and set(worst) == {0}


def test_takers_of_two_slots_do_not_take_one_each_and_wait_for_ever(tmp_path):
    """Both slots are busy and come free one after the other, while six stages wait for two at once."""
    def hold(need):
        return slots.hold(tmp_path, gpus(2, need), reaper.this_process(own_session=False))

    served = []

    def take():
        with hold(2) as devices:
            served.append(devices)

    takers = [threading.Thread(target=take, daemon=True) for _ in range(6)]
    with hold(1):
        with hold(1):
            for taker in takers:
                taker.start()
                time.sleep(0.008)  # they look at different moments
        time.sleep(0.125)
    for taker in takers:
        taker.join(10)
    assert [sorted(devices) for devices in served] == [["0", "1"]] * 6


HOLDER = """
import os, sys, time
from rlfamily.stages.store import Store
lock = Store(sys.argv[1]).lock("a" * 32)
lock.acquire()
child = os.fork()
if child == 0:
    time.sleep(600)
print(child, flush=True)
time.sleep(600)
"""


def test_lock_of_a_killed_holder_is_free_although_its_forked_child_lives(tmp_path, lab):
    """A fork shares the holder's open files, and with them its lock, unless they are closed in the child."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as holder:
        child = int(holder.stdout.readline())
        with pytest.raises(Timeout):
            Store(tmp_path).lock("a" * 32).acquire(blocking=False)
        holder.kill()
        holder.wait()
        try:
            assert lab.lives(child)
            Store(tmp_path).lock("a" * 32).acquire(timeout=5)
        finally:
            os.kill(child, signal.SIGKILL)


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """A stub on PATH that lists GPUs as index and UUID."""
    def lists(*uuids):
        lines = "\n".join(f"{index}, {uuid}" for index, uuid in enumerate(uuids))
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\nprintf '%s\\n' '{lines}'\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        return Slots.of(hardware(kind="gpu", slots=0))

    return lists


def test_a_gpu_is_named_by_its_uuid_and_shown_by_its_index(nvidia_smi, monkeypatch):
    assert nvidia_smi("GPU-a", "GPU-b") == Slots("gpu", ("0", "1"), 1, ("GPU-a", "GPU-b"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert Slots.of(hardware(kind="gpu", slots=0)) == Slots("gpu", ("1",), 1, ("GPU-b",))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-b")
    assert Slots.of(hardware(kind="gpu", slots=0)) == Slots("gpu", ("GPU-b",), 1, ("GPU-b",))


def test_two_jobs_that_both_call_their_gpu_0_do_not_wait_for_each_other(tmp_path, nvidia_smi):
    """Each sees one GPU of its own; a third job that sees the first one's waits for it."""
    first, second, third = nvidia_smi("GPU-a"), nvidia_smi("GPU-b"), nvidia_smi("GPU-a")
    assert first.devices == second.devices == ("0",)

    def hold(wanted):
        return slots.hold(tmp_path, wanted, reaper.this_process(own_session=False))

    served = threading.Event()

    def take():
        with hold(third):
            served.set()

    with hold(first), hold(second):
        waiting = threading.Thread(target=take, daemon=True)
        waiting.start()
        assert not served.wait(0.3)
    assert served.wait(20)
