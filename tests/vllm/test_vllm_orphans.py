"""kill -9 of a worker, alone or with its driver, while vLLM runs below it: all gone before the slot is used again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from tiny import save_policy

from rlfamily.stages.executors.local import LocalExecutor, reaper
from rlfamily.stages.kind import KINDS_PATH
from rlfamily.stages.scheduler import run_graph
from rlfamily.stages.store import Store
from tests.stages.laboratory import family

pytestmark = pytest.mark.vllm

TOYS = Path(__file__).parents[1] / "stages" / "toys"
SECONDS = 300.0  # two starts of vLLM beside each other on a busy machine
DRIVER = """
import sys
from pathlib import Path
from rlfamily.stages.executors.local import LocalExecutor
from rlfamily.stages.scheduler import run_graph
from tests.stages.laboratory import family
root, folder = sys.argv[1], Path(sys.argv[2])
with LocalExecutor(root, 1, [], 1.0) as executor:
    run_graph([family(folder, "first")], root, executor, lambda event: None)
"""


class Scene:
    """A results root with one slot, and a driver whose stage on it has a vLLM engine and a vLLM server running."""

    def __init__(self, folder):
        self.root, self.family, self.log = folder / "results", folder / "family.json", folder / "driver.log"
        self.folder = folder
        save_policy(folder / "model")
        with self.log.open("w") as log:
            self.driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(self.root), str(folder)],
                                           stdout=log, stderr=log, start_new_session=True)

    def wait_for(self, condition):
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline, self.said()
            assert not list(self.root.glob("artifacts/failed/*.json")), self.said()
            time.sleep(0.1)

    def said(self):
        logs = [self.log, *self.root.rglob("server.log"), *self.root.rglob("log.txt")]
        return "\n".join(path.read_text()[-4000:] for path in logs)

    def noted(self):
        return json.loads(self.family.read_text())

    def living(self):
        return [pid for pid in self.noted()["family"] if lives(pid)]

    def found(self, name):
        """How many of the noted processes lived when a stage on the same slot began."""
        return Store(self.root).layout.manifest(self.node(name).key).summary["alive"]

    def node(self, name):
        return family(self.folder, name)


def lives(pid):
    """A zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def scene(tmp_path, monkeypatch):
    """With vLLM running; ends everything afterwards, so that a failing test harms no other."""
    monkeypatch.setenv(KINDS_PATH, str(TOYS))
    scene = Scene(tmp_path)
    try:
        scene.wait_for(scene.family.exists)
        yield scene
    finally:
        started = psutil.Process(scene.driver.pid).children(recursive=True) if scene.driver.poll() is None else []
        left = [psutil.Process(pid) for pid in scene.living()] if scene.family.exists() else []
        reaper.kill([*started, *left])
        scene.driver.kill()
        scene.driver.wait()


def test_worker_killed(scene):
    """Its driver starts the stage again, on the only slot."""
    titles = " ".join(" ".join(psutil.Process(pid).cmdline()) for pid in scene.noted()["family"])
    assert titles.count("EngineCore") == 2, f"the engine's and the server's: {titles}"
    assert "api_server" in titles or "APIServer" in titles
    assert scene.living() == scene.noted()["family"]
    os.kill(scene.noted()["worker"], signal.SIGKILL)
    scene.wait_for(lambda: scene.driver.poll() is not None)
    assert scene.driver.returncode == 0, scene.said()
    assert scene.found("first") == 0
    assert not scene.living()


def test_worker_and_driver_killed(scene):
    """They outlive both, until another driver puts another stage on the slot."""
    for pid in (scene.driver.pid, scene.noted()["worker"]):
        os.kill(pid, signal.SIGKILL)
    scene.driver.wait()
    time.sleep(3.0)
    assert len(scene.living()) >= 3, "nothing would be left to end, so this test shows nothing"
    with LocalExecutor(scene.root, 1, [], 1.0) as executor:
        run_graph([scene.node("second")], scene.root, executor, lambda event: None)
    assert scene.found("second") == 0
    assert not scene.living()
