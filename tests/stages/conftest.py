"""A results root, toy stages, and an executor that runs them in this process."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest
from laboratory import toy

from rlfamily.stages.executors import Finished
from rlfamily.stages.executors.local import LocalExecutor
from rlfamily.stages.executors.local.slots import Slots
from rlfamily.stages.executors.local.worker import shared_session
from rlfamily.stages.kind import KINDS_PATH
from rlfamily.stages.scheduler import run_graph
from rlfamily.stages.worker import run_task

HERE = Path(__file__).parent


class InProcess:
    """An executor without processes: a task runs when it is polled for, latest first to tempt the scheduler."""

    def __init__(self, root, capacity=2):
        self.root, self.capacity = root, capacity
        self.submitted, self.order, self.most, self.closed = [], [], 0, []
        self.codes = {}

    def check(self, node):
        Slots.of(node.hardware)

    def submit(self, key):
        self.submitted.append(key)
        self.order.append(key)
        self.most = max(self.most, len(self.submitted))

    def poll(self, timeout):
        key = self.submitted.pop()
        if self.codes.get(key):
            return [Finished(key, "died", self.codes[key].pop(0))]
        return [Finished(key, "exited", run_task(str(self.root), key, shared_session))]

    def close(self, force):
        self.closed.append(force)
        self.submitted.clear()


class Lab:
    """One results root with its ledger, and shortcuts to make and run toy stages."""

    def __init__(self, folder):
        self.folder, self.root = folder, folder / "results"
        self.ledger, self.pids = folder / "ledger.txt", folder / "pids.txt"
        self.events = []

    def node(self, label, inputs=None, hardware=None, **config):
        return toy(self.folder, label, inputs, hardware, **config)

    def run(self, *targets, executor=None, **options):
        """Run with the given executor, in this process by default; return outcomes by label."""
        executor = executor or InProcess(self.root)
        self.events.clear()
        outcomes = run_graph(targets, self.root, executor, self.events.append, **options)
        labels = {}
        for target in targets:
            self._name(target, labels)
        return {labels[key]: outcome for key, outcome in outcomes.items()}

    def run_local(self, *targets, capacity=2, **options):
        """Run in worker processes."""
        with LocalExecutor(self.root, capacity, [], 2.0) as executor:
            return self.run(*targets, executor=executor, **options)

    def _name(self, node, labels):
        labels[node.key] = node.label
        for source in node.sources:
            self._name(source, labels)

    def ran(self, word="run"):
        """Keys of ledger lines that begin with `word`, in order."""
        lines = self.ledger.read_text().splitlines() if self.ledger.exists() else []
        return [line.split()[1] for line in lines if line.split()[0] == word]

    def said(self):
        """Names and labels of events, ticks left out."""
        return [(event.name, event.node.label) for event in self.events if event.node]

    def orphans(self):
        """Recorded grandchildren that still live."""
        pids = [int(line) for line in self.pids.read_text().split()] if self.pids.exists() else []
        return [pid for pid in pids if self.lives(pid)]

    @staticmethod
    def lives(pid):
        """A zombie does not."""
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    @staticmethod
    def wait_for(condition, seconds=20.0):
        """Return the first true value of `condition()`; fail the test when there is none in time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if value := condition():
                return value
            time.sleep(0.01)
        raise AssertionError(f"waited {seconds} s in vain for {condition}")


@pytest.fixture(autouse=True)
def toy_kinds(monkeypatch):
    monkeypatch.setenv(KINDS_PATH, str(HERE / "toys"))
    # run_task in this process sets these for the stage that it runs.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("RLFAMILY_SLOT", "")


@pytest.fixture
def lab(tmp_path):
    """A laboratory; whatever it left running is ended afterwards, so that a failing test harms no other."""
    lab = Lab(tmp_path)
    yield lab
    for pid in lab.orphans():
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def executor(lab):
    """Runs tasks in this process."""
    return InProcess(lab.root)
