"""The reaper: each way to find what a dead worker left, on its own, and whom it must spare."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import uuid

import psutil
import pytest

from rlfamily.stages.executors.local import LocalExecutor, reaper

MINE = uuid.uuid4().hex  # a mark is looked for on the whole machine, where other runs of these tests may be
SLEEP = "import time; time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); " + SLEEP


@pytest.fixture
def start():
    """Start processes; return each as psutil sees it."""
    started = []

    def start(code=SLEEP, **environment):
        process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, **environment},
                                   start_new_session=True, stdout=subprocess.PIPE)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def dead_pid():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def holder(pid, **changes):
    fields = {"host": platform.node(), "pid": pid, "created": 1.0, "session": 0, "token": MINE, "driver": ""}
    return reaper.Holder(**{**fields, **changes})


def bury(path, dead):
    path.write_text(dead.model_dump_json())
    reaper.bury(path)


def ended(process):
    return process.poll() is not None


def test_by_mark(start, dead_pid, tmp_path):
    marked, other = start(RLFAMILY_SLOT=MINE), start(RLFAMILY_SLOT=f"not {MINE}")
    bury(tmp_path / "slot.json", holder(dead_pid))
    assert ended(marked) and not ended(other)


def test_by_driver(dead_pid, tmp_path):
    """A daemon with the driver's mark in a session of its own, and one in the driver's, as the fork server is."""
    mark = f"{os.getsid(0)}-{MINE}"
    stray, server = daemon(mark, start_new_session=True), daemon(mark, start_new_session=False)
    try:
        bury(tmp_path / "slot.json", holder(dead_pid, driver=f"{os.getsid(0)}-other"))
        assert alive(stray) and alive(server)
        bury(tmp_path / "slot.json", holder(dead_pid, driver=mark))
        assert not alive(stray) and alive(server)
    finally:
        reaper.kill([stray, server])


def daemon(mark, start_new_session):
    """Start a process whose parent is gone."""
    code = (f"import subprocess as s, sys; "
            f"print(s.Popen([sys.executable, '-c', {SLEEP!r}], stdout=s.DEVNULL).pid)")
    printed = subprocess.run([sys.executable, "-c", code], env={**os.environ, "RLFAMILY_DRIVER": mark}, text=True,
                             stdout=subprocess.PIPE, start_new_session=start_new_session, check=True).stdout
    return psutil.Process(int(printed))


def alive(process):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_session_whose_number_is_used_again_is_spared(start, tmp_path):
    stranger = start()
    bury(tmp_path / "slot.json", holder(stranger.pid, session=stranger.pid, created=1.0))
    assert not ended(stranger)


def test_other_hosts_and_torn_records_are_left_alone(start, dead_pid, tmp_path):
    marked = start(RLFAMILY_SLOT=MINE)
    bury(tmp_path / "slot.json", holder(dead_pid, host="elsewhere"))
    (tmp_path / "slot.json").write_text("{")
    reaper.bury(tmp_path / "slot.json")
    reaper.bury(tmp_path / "absent.json")
    assert not ended(marked)


def test_grace_then_force(start):
    stubborn = start(STUBBORN)
    stubborn.stdout.readline()
    reaper.kill([psutil.Process(stubborn.pid)], grace=0.1)
    assert ended(stubborn)


def test_closing_an_executor_frees_slots_that_nobody_took_again(lab, start, dead_pid):
    left = start(RLFAMILY_SLOT=MINE)
    name = lab.root / "artifacts" / "slots" / platform.node() / "cpu-0.json"
    name.parent.mkdir(parents=True)
    name.write_text(holder(dead_pid).model_dump_json())
    with LocalExecutor(lab.root, 1, [], 1.0):
        assert not ended(left)
    assert ended(left) and not name.exists()
