"""One task: artifact, failure, log, attempts, inputs, all in this process."""

from __future__ import annotations

import re
import subprocess
import sys
import time

import pytest

from rlfamily.records import Progress
from rlfamily.stages.executors.local.worker import shared_session
from rlfamily.stages.perform import Stopwatch
from rlfamily.stages.store import Order, Store
from rlfamily.stages.worker import COMMITTED, FAILED, _told, run_task


@pytest.fixture
def store(lab):
    return Store(lab.root)


def perform(lab, store, node):
    store.write_order(Order.of(node))
    return run_task(str(lab.root), node.key, shared_session)


def test_artifact_has_files_summary_and_provenance(lab, store):
    data = lab.node("data", steps=2)
    top = lab.node("top", {"data": data}, steps=3)
    assert [perform(lab, store, node) for node in (data, top)] == [COMMITTED, COMMITTED]
    manifest = store.layout.manifest(top.key)
    assert (manifest.label, manifest.attempts, manifest.inputs) == ("top", 1, {"sources": {"data": data.key}})
    assert set(manifest.files) == {"value.txt", "nested/steps.txt"}
    assert manifest.summary == {"value": (store.layout.object(top.key) / "value.txt").read_text()}
    assert not store.layout.work(top.key).exists()


def test_committed_task_is_not_run_again(lab, store):
    node = lab.node("once")
    assert [perform(lab, store, node) for _ in range(3)] == [COMMITTED] * 3
    assert lab.ran() == [node.key] and lab.ran("REDONE") == []


def test_artifact_that_appeared_while_waiting_for_the_lock_is_enough(lab, store, monkeypatch):
    node, answers = lab.node("elsewhere"), iter([False, True])
    store.write_order(Order.of(node))
    monkeypatch.setattr(Store, "committed", lambda self, key: next(answers))
    assert run_task(str(lab.root), node.key, shared_session) == COMMITTED and lab.ran() == []


def test_exception_becomes_a_failure_with_log_and_traceback(lab, store):
    node = lab.node("broken", action="fail")
    assert perform(lab, store, node) == FAILED
    failure = store.failure(node.key)
    assert failure.error == "ValueError: the fuse is blown"
    assert "in fail" in failure.traceback and failure.label == "broken"
    log = (lab.root / failure.log).read_text()
    assert "about to fail" in log and "Traceback" in log and "attempt 1" in log


def test_user_error_is_its_own_message(lab, store):
    node = lab.node("refused", action="refuse")
    assert perform(lab, store, node) == FAILED
    assert store.failure(node.key).error == "task.x: no such thing; take another"


def test_next_attempt_resumes_counts_and_clears_the_failure(lab, store):
    node = lab.node("mended later", action="fail", steps=2)
    perform(lab, store, node)
    (lab.folder / "mended").touch()
    assert perform(lab, store, node) == COMMITTED
    assert store.failure(node.key) is None
    assert store.layout.manifest(node.key).attempts == 2
    assert lab.ran("step0") == [node.key], "the checkpoint of the first attempt is used"


def test_resumed_stage_equals_a_straight_one(lab, store):
    broken, straight = lab.node("same", action="fail", steps=3), lab.node("same", steps=3)
    perform(lab, store, broken)
    (lab.folder / "mended").touch()
    for node in (broken, straight):
        perform(lab, store, node)
    values = [(store.layout.object(node.key) / "value.txt").read_bytes() for node in (broken, straight)]
    assert values[0] == values[1]


def test_missing_and_damaged_inputs_are_named(lab, store):
    data = lab.node("data")
    top = lab.node("top", {"data": data})
    assert perform(lab, store, top) == FAILED
    assert "input 'sources.data'" in store.failure(top.key).error and "is gone" in store.failure(top.key).error
    perform(lab, store, data)
    (store.layout.object(data.key) / "value.txt").write_text("")
    assert perform(lab, store, top) == FAILED
    assert "damaged" in store.failure(top.key).error


def test_changed_code_is_noticed(lab, store):
    node = lab.node("old")
    store.write_order(Order.of(node).model_copy(update={"version": "0"}))
    assert run_task(str(lab.root), node.key, shared_session) == FAILED
    assert re.search(r"is now version 1\+[0-9a-f]{8}, planned as 0;", store.failure(node.key).error)


def test_unplaceable_hardware_is_a_failure(lab, store):
    node = lab.node("big", hardware={"processes": 3})
    assert perform(lab, store, node) == FAILED
    assert "3 at once" in store.failure(node.key).error


def test_outputs_of_failed_attempts_do_not_pile_up(lab, store):
    node = lab.node("broken", action="fail")
    for _ in range(3):
        perform(lab, store, node)
    assert len(list(store.layout.work(node.key).glob("out-*"))) == 1


def test_output_left_by_a_dead_attempt_does_not_enter_the_artifact(lab, store):
    node = lab.node("clean")
    stale = store.layout.work(node.key) / "out-dead"
    stale.mkdir(parents=True)
    (stale / "junk").write_text("junk")
    perform(lab, store, node)
    assert "junk" not in store.layout.manifest(node.key).files


def test_seconds_go_on_from_the_last_report(tmp_path):
    path = tmp_path / "progress.json"
    path.write_text(Progress(step=1, total=9, seconds=100.0).model_dump_json())
    stopwatch = Stopwatch(path)
    stopwatch.report(2, 9, "note")
    progress = Progress.model_validate_json(path.read_text())
    assert (progress.step, progress.note) == (2, "note") and 100.0 <= progress.seconds < 110.0


def test_cpu_seconds_are_those_of_the_process_and_its_children_over_all_attempts(tmp_path):
    path = tmp_path / "progress.json"
    path.write_text(Progress(step=1, total=9, seconds=0.0, cpu_seconds=100.0).model_dump_json())
    stopwatch = Stopwatch(path)
    time.sleep(0.2)  # costs none
    idle = stopwatch.cpu_seconds
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"], check=True)
    assert 99.999 < idle < 100.15 and 100.3 <= stopwatch.cpu_seconds < 102.0
    stopwatch.report(9, 9, "")
    assert Progress.model_validate_json(path.read_text()).cpu_seconds >= 100.3


def test_reports_are_throttled_but_the_last_is_written(tmp_path):
    path = tmp_path / "progress.json"
    stopwatch, seen = Stopwatch(path), []
    for step in range(1, 1001):
        stopwatch.report(step, 1000, "")
        seen.append(Progress.model_validate_json(path.read_text()).step if step in (1, 2, 1000) else None)
    assert (seen[0], seen[1], seen[-1]) == (1, 1, 1000)


def test_a_task_runs_without_any_occupation(lab, store, monkeypatch):
    """As a cluster starts it: no slot is taken, and the GPUs it was given stay as they are."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    node = lab.node("elsewhere", hardware={"kind": "gpu", "slots": 0, "processes": 8})
    store.write_order(Order.of(node))
    assert run_task(str(lab.root), node.key) == COMMITTED
    assert not (store.layout.artifacts / "slots").exists()
    assert lab.ledger.read_text().split()[2] == "7"


@pytest.mark.parametrize("error", [
    OSError(28, "No space left on device", "/results/x"),
    RuntimeError("[enforce fail at inline_container.cc:674] . unexpected pos 4096 vs 3990"),
])
def test_a_full_disk_is_called_that(error):
    told = _told(error)
    assert told.startswith("the disk is full (") and "\n" not in told and "run the command again" in told


def test_other_errors_are_not_a_full_disk():
    assert _told(RuntimeError("a tensor")) == "RuntimeError: a tensor"
    assert _told(OSError(13, "Permission denied", "/x")).startswith("PermissionError")
