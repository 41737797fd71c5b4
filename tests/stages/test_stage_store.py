"""The store: an artifact is whole or not there, at any death, for any number of producers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from blake3 import blake3

from rlfamily.errors import UserError
from rlfamily.records import Failure
from rlfamily.stages.store import Effort, Order, Store

REPOSITORY = Path(__file__).parents[2]
EFFORT = Effort(started="2020-01-01T00:00:00+00:00", seconds=1.5, attempts=1)


def task(key="a" * 32):
    return Order(key=key, kind="toy", version="1", label="label", config={"a": 1}, inputs={}, hardware={"kind": "cpu"})


def output(store, name="out-1", text="numbers"):
    out = store.layout.work("a" * 32) / name
    (out / "sub").mkdir(parents=True)
    (out / "sub" / "file.txt").write_text(text)
    return out


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def test_commit_moves_the_folder_and_describes_it(store):
    assert store.commit(task(), output(store), {"loss": 0.5}, EFFORT)
    manifest = store.layout.manifest("a" * 32)
    info = manifest.files["sub/file.txt"]
    assert set(manifest.files) == {"sub/file.txt"}
    assert (info.bytes, info.blake3) == (7, blake3(b"numbers").hexdigest())
    assert (manifest.summary, manifest.seconds, manifest.config) == ({"loss": 0.5}, 1.5, {"a": 1})
    assert "python" in manifest.versions and manifest.machine["host"]
    assert list(store.committed_keys()) == ["a" * 32]


def test_second_producer_loses_harmlessly(store):
    first, second = output(store, "out-1"), output(store, "out-2", "others")
    assert store.commit(task(), first, {}, EFFORT)
    assert not store.commit(task(), second, {}, EFFORT)
    assert store.verify("a" * 32) == [] and not second.exists()


def test_folder_without_manifest_is_no_artifact_and_makes_room(store):
    store.commit(task(), output(store), {}, EFFORT)
    (store.layout.object("a" * 32) / "manifest.json").unlink()
    assert not store.committed("a" * 32)
    assert store.commit(task(), output(store, text="again"), {}, EFFORT)
    assert (store.layout.object("a" * 32) / "sub" / "file.txt").read_text() == "again"


def test_verify_finds_every_kind_of_damage(store):
    store.commit(task(), output(store), {}, EFFORT)
    file = store.layout.object("a" * 32) / "sub" / "file.txt"
    file.write_text("nUmbers")
    assert "content differs" in store.verify("a" * 32)[0]
    assert store.problems("a" * 32, contents=False) == []
    file.write_text("number")
    assert "6 bytes, its manifest says 7" in store.problems("a" * 32, contents=False)[0]
    file.unlink()
    assert "missing" in store.problems("a" * 32, contents=False)[0]


def test_links_and_foreign_manifests_are_refused(store):
    out = output(store)
    (out / "link").symlink_to("/etc/passwd")
    with pytest.raises(ValueError, match="regular files only"):
        store.commit(task(), out, {}, EFFORT)
    (out / "link").unlink()
    (out / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="the store writes the manifest"):
        store.commit(task(), out, {}, EFFORT)
    assert not store.committed("a" * 32)


def test_summary_must_be_json(store):
    with pytest.raises(UserError, match="summary.loss"):
        store.commit(task(), output(store), {"loss": float("nan")}, EFFORT)


def test_failures_are_kept_until_a_commit_is_collected(store):
    store.write_order(task())
    store.fail(Failure(key="a" * 32, kind="toy", label="l", error="e", traceback="", log="", when=""))
    assert store.failure("a" * 32).error == "e" and store.failure("b" * 32) is None
    assert store.collect() == []
    store.commit(task(), output(store), {}, EFFORT)
    assert store.collect() == ["a" * 32]
    assert store.failure("a" * 32) is None and not store.layout.work("a" * 32).exists()


KILLED_IN_COMMIT = """
import os, signal, sys
from rlfamily.stages import store as module
from rlfamily.stages.store import Effort, Order, Store
root, step = sys.argv[1], int(sys.argv[2])
calls = 0
def deadly(call):
    def counted(*arguments, **options):
        global calls
        calls += 1
        if calls == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **options)
    return counted
for name in ("fsync", "rename", "replace", "open"):
    setattr(os, name, deadly(getattr(os, name)))
module.hash_file = deadly(module.hash_file)
store = Store(root)
task = Order(key="a" * 32, kind="toy", version="1", label="", config={}, inputs={}, hardware={})
out = store.layout.work("a" * 32) / f"out-{step}"
(out / "sub").mkdir(parents=True)
for name in ("one", "sub/two"):
    (out / name).write_text(name * 1000)
store.commit(task, out, {}, Effort(started="", seconds=0.0, attempts=1))
"""


def test_torn_artifact_is_never_visible(store):
    """Kill the commit at its 1st, 2nd, ... call that touches the disk, until one gets through."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    killed, done = 0, False
    while not done:
        command = [sys.executable, "-c", KILLED_IN_COMMIT, str(store.layout.root), str(killed + 1)]
        code = subprocess.run(command, env=environment, check=False).returncode
        if store.committed("a" * 32):
            assert store.verify("a" * 32) == []
            done = True
        else:
            assert code == -signal.SIGKILL and not store.layout.object("a" * 32).exists()
            killed += 1
    assert killed >= 8
