"""Worker processes: isolation, retries, orphans, Ctrl-C, two drivers at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from drivers import descendants, start_driver

from rlfamily.records import Failure
from rlfamily.stages.executors.local import LocalExecutor
from rlfamily.stages.scheduler import run_graph
from rlfamily.stages.store import Store

HERE = Path(__file__).parent


def all_gone(folder):
    """The fork server ends by itself a moment after its driver."""
    return not descendants(folder)


def statuses(outcomes):
    return {label: outcome.status for label, outcome in outcomes.items()}


def test_failing_and_dying_stages_do_not_touch_others(lab):
    data = lab.node("data", steps=1)
    cells = [
        lab.node("fine", {"data": data}, steps=2),
        lab.node("broken", {"data": data}, action="fail"),
        lab.node("unlucky", {"data": data}, action="die", deaths=2, steps=3),
        lab.node("doomed", {"data": data}, action="die", deaths=9),
        lab.node("leaving", {"data": data}, action="leave", code=9),
    ]
    table = lab.node("table", {str(number): cell for number, cell in enumerate(cells)})
    outcomes = lab.run_local(*cells, table)
    assert statuses(outcomes) == {"data": "done", "fine": "done", "broken": "failed", "unlucky": "done",
                                  "doomed": "failed", "leaving": "failed", "table": "blocked"}
    assert "SIGKILL" in outcomes["doomed"].reason and "exit code 9" in outcomes["leaving"].reason
    unlucky = cells[2].key
    assert Store(lab.root).layout.manifest(unlucky).attempts == 3
    assert [lab.ran(f"step{step}").count(unlucky) for step in range(3)] == [1, 1, 1], "resumed, not redone"


def test_exit_without_a_word_is_not_taken_for_the_failure_of_an_earlier_run(lab):
    """Exit code 1 is what a worker returns after it has recorded a failure; a library may call exit(1), too."""
    node = lab.node("leaving", action="leave", code=1)
    Store(lab.root).fail(Failure(key=node.key, kind="toy", label="", error="old", traceback="", log="", when=""))
    assert "exit code 1" in lab.run_local(node)["leaving"].reason


@pytest.mark.parametrize("deaths", [0, 1])
def test_grandchildren_are_gone_after_the_run(lab, deaths):
    assert statuses(lab.run_local(lab.node("parent", action="spawn", deaths=deaths))) == {"parent": "done"}
    assert len(lab.pids.read_text().split()) == 5 * (1 + deaths)
    assert lab.orphans() == []


def test_orphans_of_a_dead_worker_are_gone_before_its_slot_runs_again(lab):
    """The worker dies for good; the next stage, on the only slot, sees none of its processes."""
    shape, alive = {"slots": 1}, []
    cells = [lab.node("parent", action="spawn", deaths=9, hardware=shape), lab.node("next", hardware=shape)]

    def watch(event):
        if event.name == "committed":
            alive.append(lab.orphans())

    with LocalExecutor(lab.root, 1, [], 1.0) as executor:
        run_graph(cells, lab.root, executor, watch)
    assert alive == [[]] and len(lab.pids.read_text().split()) == 15


def test_two_stages_never_share_a_slot(lab):
    lab.run_local(*[lab.node(f"cell {number}", hardware={"slots": 1, "seconds": 0.01}, steps=3) for number in range(4)],
                  capacity=3)
    words = [line.split()[1] for line in lab.ledger.read_text().splitlines()]
    # One slot: all lines of one stage come before those of the next.
    assert len([1 for before, after in zip(words, words[1:], strict=False) if before != after]) == 3


def test_gpu_slots_are_what_the_stage_sees(lab, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    shape = {"kind": "gpu", "slots": 0, "processes": 2}
    lab.run_local(lab.node("both", hardware=shape), lab.node("one", hardware={**shape, "processes": 1}))
    seen = {line.split()[2] for line in lab.ledger.read_text().splitlines()}
    assert "4,6" in seen and seen & {"4", "6"}


def test_two_drivers_at_once_share_the_work(tmp_path, lab):
    drivers = [start_driver(tmp_path, cells=4, seconds=0.01, own_session=True) for _ in range(2)]
    assert [driver.wait(30) for driver in drivers] == [0, 0], (tmp_path / "driver.log").read_text()
    words = [line.split() for line in (tmp_path / "ledger.txt").read_text().splitlines()]
    runs = [word[1] for word in words if word[0] == "run"]
    assert len(runs) == len(set(runs)) == 10 and not [word for word in words if word[0] == "REDONE"]
    lab.wait_for(lambda: all_gone(tmp_path))


@pytest.mark.parametrize(("requests", "limit"), [(1, 30), (2, 10)])
def test_ctrl_c_once_drains_and_twice_ends(tmp_path, lab, requests, limit):
    driver = start_driver(tmp_path, cells=4, seconds=0.2 if requests == 1 else 2.0, own_session=True)
    log = tmp_path / "driver.log"
    lab.wait_for(lambda: "started data" in log.read_text())
    for number in range(requests):
        lab.wait_for(lambda number=number: number == 0 or "stopping" in log.read_text())
        driver.send_signal(signal.SIGINT)
    assert driver.wait(limit) == 130
    assert ("committed data" in log.read_text()) == (requests == 1)
    assert "started warm" not in log.read_text()
    lab.wait_for(lambda: all_gone(tmp_path))


def test_workers_of_a_killed_driver_finish_and_are_adopted(tmp_path, lab):
    first = start_driver(tmp_path, cells=1, seconds=0.1, own_session=True)
    ledger = tmp_path / "ledger.txt"
    lab.wait_for(lambda: ledger.exists() and "run" in ledger.read_text())
    first.kill()
    first.wait()
    assert start_driver(tmp_path, cells=1, seconds=0.1, own_session=True).wait(30) == 0
    words = [line.split()[0] for line in ledger.read_text().splitlines()]
    assert words.count("run") == 4 and words.count("step0") == 4, "nothing was begun again"


def test_workers_do_not_run_the_driver_again(tmp_path):
    """driver.py has no __main__ guard: one run of it per worker would show here, or recurse."""
    assert start_driver(tmp_path, cells=2, seconds=0.0, own_session=True).wait(30) == 0
    assert (tmp_path / "invocations.txt").read_text() == "x"


def test_driver_from_standard_input_works(tmp_path):
    """As in a notebook, __main__ is then no file that anyone could import."""
    code = (HERE / "driver.py").read_text()
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    command = [sys.executable, "-", str(tmp_path), "1", "0"]
    assert subprocess.run(command, input=code, text=True, env=environment, check=False).returncode == 0
    assert (tmp_path / "table.csv").exists()
