"""Finding boxed answers, deciding equality, and the worker processes: hostile answers, killed workers, no orphans."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
import unittest.mock
from collections.abc import Iterator
from pathlib import Path

import math_verify
import psutil
import pytest

from rlfamily import tasks
from rlfamily.config import build
from rlfamily.tasks.support import math_answers
from rlfamily.tasks.support.math_answers import MAX_CHARACTERS, Checkers, equivalent, last_boxed


@pytest.fixture(scope="module")
def pool() -> Iterator[Checkers]:
    """Workers that give up early, so that hostile answers cost the tests little."""
    pool = Checkers(limit=0.8)
    yield pool
    pool.close()


@pytest.mark.parametrize(("response", "answer"), [
    (r"so \boxed{7}", "7"),
    ("step2: 3 + 4 = 7 \n \\boxed{ 7 }", "7"),
    (r"\boxed{5}, no wait, \boxed{7}", "7"),
    (r"\boxed{\frac{1}{2}} }", r"\frac{1}{2}"),
    (r"\boxed {7}", "7"),
    (r"\boxed{\boxed{7}}", "7"),
    (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
    (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),  # an escaped brace closes nothing
    (r"\boxed{1 \\ {2}}", r"1 \\ {2}"),  # the brace after a line break does count
    (r"\boxed{7} and then \boxed{8", "7"),  # cut off
    (r"{\boxed{7}", "7"),
    (r"} \boxed{7}", "7"),
    ("\\boxed{a\nb}", "a\nb"),
])
def test_last_complete_box(response: str, answer: str) -> None:
    assert last_boxed(response) == answer


@pytest.mark.parametrize("response", [
    "", "7", r"\boxed", r"\boxed 7", r"\boxed{7", r"\boxed{}", r"\boxed{ }", r"\fbox{7}", r"boxed{7}",
    r"\\boxed{7}"[1:].replace("\\boxed", "\\\\boxed"), "\\boxed{" + "7" * (MAX_CHARACTERS + 1) + "}",
])
def test_no_answer(response: str) -> None:
    assert last_boxed(response) is None


@pytest.mark.parametrize("response", [
    "\\boxed{" * 20_000, "\\boxed{" + "{" * 50_000 + "}" * 50_001, "\\" * 100_000, "}" * 100_000,
    "\\boxed{}" * 20_000,
])
def test_finding_is_linear(response: str) -> None:
    start = time.process_time()
    assert last_boxed(response) is None
    assert time.process_time() - start < 2.0  # 0.1 s; a quadratic search takes minutes


INTEGERS = ["0", "1", "-1", "7", "-7", "10", "12", "99", "100", "1234", "-1234", "999999999999"]


def test_plain_integers_are_compared_as_math_verify_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """The direct comparison is never wrong where it is used, and no worker is asked."""
    monkeypatch.setattr(math_answers.CHECKERS, "check", lambda *_: pytest.fail("a worker was asked"))
    parsed = {text: math_verify.parse(f"\\boxed{{{text}}}") for text in INTEGERS}
    for right in INTEGERS:
        for answer in INTEGERS:
            assert equivalent(right, answer) == math_verify.verify(parsed[right], parsed[answer]) == (right == answer)


@pytest.mark.parametrize(("right", "answer", "same"), [
    (r"\frac{1}{2}", "0.5", True), ("27.0", "27", True), ("1,234", "1234", True), ("007", "7", True),
    (r"\text{Monday}", "Monday", True), (r"\{1, 2\}", r"2, 1", True), ("(1, 2)", "(2, 1)", False),
    (r"2\sqrt{3}", r"\sqrt{12}", True), (r"\frac{1}{3}", "0.33", False), ("7", "8.0", False), ("x = 5", "5", True),
    ("7", r"\frac{", False), ("7", "}{", False), ("7", "", False), ("7", "\ud800", False), ("7", "7\n8", False),
])
def test_verdicts(pool: Checkers, right: str, answer: str, same: bool) -> None:
    assert pool.check(right, answer) is same


def test_the_right_answer_goes_first(pool: Checkers) -> None:
    """math-verify is lenient to the second argument: an interval passes for the inequality, not the other way round."""
    assert pool.check("1<x<2", "(1,2)")
    assert not pool.check("(1,2)", "1<x<2")


# A power that is computed inside C, where no Python code gets a turn; and a factorial.
@pytest.mark.parametrize("answer", ["9^{9^{9^9}}", "10000000!"])
def test_a_hostile_answer_is_wrong_at_once_and_the_next_is_checked(pool: Checkers, answer: str) -> None:
    assert pool.check("0.5", r"\frac12")
    worker = pool.idle[-1]
    worker.ask = unittest.mock.Mock(wraps=worker.ask)  # type: ignore[method-assign]
    taken = time.process_time()
    with unittest.mock.patch.object(math_answers, "Worker", side_effect=AssertionError("tried again")):
        assert not pool.check("7", answer)
    assert worker.process.returncode == -signal.SIGPROF and worker.ask.call_count == 1
    assert pool.check("0.5", r"\frac12")
    assert time.process_time() - taken < 1.0  # nothing of it ran here


def test_a_killed_worker_is_replaced_and_says_nothing_about_the_answer(pool: Checkers) -> None:
    assert pool.check("0.5", r"\frac12")
    killed = pool.idle[-1].process
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert pool.check("0.5", r"\frac12")
    assert all(worker.process.pid != killed.pid for worker in pool.idle)


def test_a_stuck_worker_is_killed_and_the_answer_wrong(pool: Checkers, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pool.check("0.5", r"\frac12")
    monkeypatch.setattr(math_answers, "WALL_SECONDS", 0.05)
    monkeypatch.setattr(math_answers, "ATTEMPTS", 1)
    stuck = pool.idle[-1].process
    os.kill(stuck.pid, signal.SIGSTOP)
    assert not pool.check("0.5", r"\frac12")
    assert stuck.returncode == -signal.SIGKILL and not pool.idle


def test_workers_start_when_needed_ignore_ctrl_c_and_end_with_the_pool() -> None:
    pool = Checkers(limit=0.8)
    assert not pool.idle
    assert pool.check("0.5", r"\frac12")
    worker = pool.idle[0]
    os.kill(worker.process.pid, signal.SIGINT)
    assert pool.check("0.25", r"\frac14") and pool.idle == [worker]
    assert not any("torch" in entry.path for entry in psutil.Process(worker.process.pid).memory_maps())
    pool.close()
    assert worker.process.returncode is not None and not pool.idle


def test_a_forked_child_does_not_use_the_workers_of_its_parent(pool: Checkers) -> None:
    assert math_answers.CHECKERS.check("0.5", r"\frac12") and math_answers.CHECKERS.idle
    child = os.fork()
    if child == 0:
        os._exit(len(math_answers.CHECKERS.idle))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert math_answers.CHECKERS.idle


CRASH = """
import os, signal, threading, time
from rlfamily.tasks.support.math_answers import CHECKERS
CHECKERS.limit = 1.0
CHECKERS.check("0.5", "\\\\frac12")
first = CHECKERS.idle.pop()
CHECKERS.check("0.5", "\\\\frac12")
threading.Thread(target=first.ask, args=("7", "9^{9^{9^9}}"), daemon=True).start()
time.sleep(0.2)
print(first.process.pid, CHECKERS.idle[0].process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_no_worker_outlives_a_killed_parent() -> None:
    """Neither an idle one nor one that is stuck inside C."""
    done = subprocess.run([sys.executable, "-c", CRASH], capture_output=True, text=True, check=False,
                          cwd=Path(__file__).resolve().parents[2])
    assert done.returncode == -signal.SIGKILL, done.stderr
    pids = [int(word) for word in done.stdout.split()]
    deadline = time.monotonic() + 60.0
    while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(pids) == 2 and not [pid for pid in pids if psutil.pid_exists(pid)]


def test_import_math_is_the_standard_library() -> None:
    from rlfamily.tasks import math as task

    assert importlib.import_module("math").sqrt(4) == 2.0
    assert task is not importlib.import_module("math")


def test_the_limit_is_a_setting(monkeypatch):
    """It reaches the worker by the example's meta, and is left out where it is the usual one."""
    asked = []
    monkeypatch.setattr(math_answers, "checkers", lambda limit: asked.append(limit) or math_answers.CHECKERS)
    answer = r"\boxed{\frac{50}{100} + 0}"
    assert tasks.get("math").score(answer, {"answer": "0.5", "check_seconds": 7.0})["valid"]
    assert tasks.get("math").score(answer.replace("0}", "1 - 1}"), {"answer": "0.5"})["valid"]
    assert asked == [7.0, math_answers.CPU_SECONDS]
    data = build(["task=math_tiny", "algorithm.warm_start=base"]).task.data
    meta = tasks.get("math")._marking
    assert "check_seconds" not in meta(data)
    assert meta(data.model_copy(update={"check_seconds": 7.0}))["check_seconds"] == 7.0
