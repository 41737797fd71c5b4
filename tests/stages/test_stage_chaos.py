"""kill -9 of any process at any moment, then the same command: the same table, nothing committed done twice."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from drivers import descendants, start_driver

from rlfamily.stages.store import Store

HERE = Path(__file__).parent
CELLS, STAGES, STEPS, KILLS = 6, 14, 2 + 3 + 6 * 6, 10


def victim(driver, folder, rng):
    """A worker or an escaped grandchild, the driver, or a fork server or the like: each sort as likely as the others."""
    sorts = {"leaders": [], "driver": [driver.pid], "servers": []}
    for process in descendants(folder):
        if process.pid != driver.pid:
            leads = os.getsid(process.pid) == process.pid
            sorts["leaders" if leads else "servers"].append(process.pid)
    return rng.choice(rng.choice([pids for pids in sorts.values() if pids]))


def torment(folder, rng):
    """Run the command until it succeeds, killing KILLS random processes on the way; return how many were killed."""
    killed, driver = 0, start_driver(folder, CELLS, 0.08, own_session=False)
    while True:
        time.sleep(rng.uniform(0.05, 0.5))
        if driver.poll() is not None:
            if driver.returncode == 0:
                return killed
            driver = start_driver(folder, CELLS, 0.08, own_session=False)
        elif killed < KILLS:
            with suppress(ProcessLookupError):
                os.kill(victim(driver, folder, rng), signal.SIGKILL)
                killed += 1


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert start_driver(folder, CELLS, 0.08, own_session=False).wait(60) == 0, (folder / "driver.log").read_text()
    return (folder / "table.csv").read_bytes()


@pytest.mark.parametrize("seed", range(5))
def test_chaos(tmp_path, lab, uninterrupted, seed):
    killed = torment(tmp_path, random.Random(seed))
    log = (tmp_path / "driver.log").read_text()
    assert killed >= 5, log
    assert (tmp_path / "table.csv").read_bytes() == uninterrupted
    words = Counter(line.split()[0] for line in (tmp_path / "ledger.txt").read_text().splitlines())
    assert words["REDONE"] == 0
    assert STAGES <= words["run"] <= STAGES + killed, words
    steps = sum(count for word, count in words.items() if word.startswith("step"))
    assert steps <= STEPS + killed, "a killed stage loses at most one checkpoint interval"
    store = Store(tmp_path / "results")
    assert [store.verify(key) for key in store.committed_keys()] == [[]] * STAGES
    lab.wait_for(lambda: not descendants(tmp_path), seconds=15)
    assert start_driver(tmp_path, CELLS, 0.08, own_session=False).wait(30) == 0
    assert (tmp_path / "ledger.txt").read_text().count("run ") == words["run"], "the rerun executes nothing"
