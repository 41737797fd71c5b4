"""The ready loop, with an executor in this process: order, isolation, retries, stopping."""

from __future__ import annotations

import os
import signal

import pytest

from rlfamily.errors import UserError
from rlfamily.stages.scheduler import Interrupted
from rlfamily.stages.store import Store


def diamond(lab, **left):
    data = lab.node("data")
    one, two = lab.node("one", {"data": data}, **left), lab.node("two", {"data": data})
    return lab.node("table", {"one": one, "two": two})


def statuses(outcomes):
    return {label: outcome.status for label, outcome in outcomes.items()}


def test_everything_runs_once_inputs_first(lab):
    table = diamond(lab)
    assert set(statuses(lab.run(table)).values()) == {"done"}
    assert len(lab.ran()) == 4 and lab.ran()[0] == table.inputs["sources"]["one"].inputs["sources"]["data"].key
    assert lab.ran()[-1] == table.key


def test_second_run_submits_nothing(lab, executor):
    lab.run(diamond(lab))
    assert statuses(lab.run(diamond(lab), executor=executor))["table"] == "done"
    assert executor.order == [] and lab.events == []


def test_inputs_of_a_committed_stage_are_not_rebuilt(lab, executor):
    table = diamond(lab)
    lab.run(table)
    store = Store(lab.root)
    (store.layout.object(table.inputs["sources"]["two"].key) / "manifest.json").unlink()
    outcomes = lab.run(table, executor=executor)
    assert executor.order == [] and statuses(outcomes)["two"] == "missing"


def test_capacity_is_respected(lab, executor):
    executor.capacity = 3
    lab.run(*[lab.node(f"cell {number}") for number in range(10)], executor=executor)
    assert executor.most == 3


def test_longest_chain_goes_first(lab, executor):
    executor.capacity = 1
    short = [lab.node(f"short {number}") for number in range(3)]
    long = lab.node("end", {"x": lab.node("middle", {"x": lab.node("start")})})
    lab.run(*short, long, executor=executor)
    assert [node for _, node in lab.said()][0] == "start"


def test_failure_is_isolated_and_dependents_are_blocked(lab):
    table = diamond(lab, action="fail")
    paper, other = lab.node("paper", {"table": table}), lab.node("other table")
    outcomes = lab.run(paper, other)
    assert statuses(outcomes) == {"data": "done", "one": "failed", "two": "done", "table": "blocked",
                                  "paper": "blocked", "other table": "done"}
    assert outcomes["one"].reason == "ValueError: the fuse is blown"
    assert outcomes["table"].reason == outcomes["paper"].reason == "by one"


def test_rerun_after_a_failure_redoes_only_it_and_what_it_blocked(lab):
    table = diamond(lab, action="fail")
    lab.run(table)
    lab.ledger.unlink()
    (lab.folder / "mended").touch()
    assert set(statuses(lab.run(table)).values()) == {"done"}
    assert lab.ran() == [table.inputs["sources"]["one"].key, table.key]


def test_exception_is_not_retried_in_the_same_run(lab, executor):
    lab.run(lab.node("broken", action="fail"), executor=executor)
    assert len(executor.order) == 1


def test_death_is_retried_twice(lab, executor):
    node = lab.node("unlucky")
    executor.codes[node.key] = [-9, 255]
    assert statuses(lab.run(node, executor=executor)) == {"unlucky": "done"}
    assert [name for name, _ in lab.said()] == ["started", "retried", "retried", "committed"]


def test_third_death_is_a_failure_that_says_so(lab, executor):
    node = lab.node("doomed")
    executor.codes[node.key] = [-9, -9, -9]
    outcomes = lab.run(node, lab.node("fine"), executor=executor)
    assert statuses(outcomes) == {"doomed": "failed", "fine": "done"}
    assert outcomes["doomed"].reason == "the process was killed by SIGKILL (out of memory?), 3 times"
    assert Store(lab.root).failure(node.key).error == outcomes["doomed"].reason


def test_without_keep_going_nothing_starts_after_a_failure(lab, executor):
    executor.capacity = 1
    cells = [lab.node("broken", action="fail"), lab.node("later")]
    outcomes = lab.run(*cells, executor=executor, keep_going=False)
    assert statuses(outcomes) == {"broken": "failed", "later": "missing"}


def test_key_committed_by_another_driver_meanwhile_is_not_started(lab, executor):
    from rlfamily.stages.executors.local.worker import shared_session
    from rlfamily.stages.store import Order
    from rlfamily.stages.worker import run_task

    executor.capacity = 1
    first, second = lab.node("first"), lab.node("second")
    poll = executor.poll

    def other_driver_is_quicker(timeout):
        Store(lab.root).write_order(Order.of(second))
        run_task(str(lab.root), second.key, shared_session)
        return poll(timeout)

    executor.poll = other_driver_is_quicker
    assert statuses(lab.run(first, second, executor=executor)) == {"first": "done", "second": "done"}
    assert executor.order == [first.key]


def test_hardware_is_refused_before_anything_starts(lab, executor):
    with pytest.raises(UserError, match="5 at once"):
        lab.run(lab.node("fine"), lab.node("big", hardware={"processes": 5}), executor=executor)
    assert executor.order == []


@pytest.mark.parametrize(("signals", "forced"), [([signal.SIGINT], []), ([signal.SIGINT] * 2, [True]),
                                                 ([signal.SIGTERM], [True]), ([signal.SIGHUP], [True])])
def test_first_request_drains_and_second_ends(lab, executor, signals, forced):
    executor.capacity = 1
    poll, handler = executor.poll, signal.getsignal(signal.SIGINT)

    def interrupted(timeout):
        for number in signals:
            os.kill(os.getpid(), number)
        return poll(timeout) if len(executor.order) == 1 and not forced else []

    executor.poll = interrupted
    cells = [lab.node("running"), lab.node("waiting")]
    with pytest.raises(Interrupted) as caught:
        lab.run(*cells, executor=executor)
    assert executor.closed == forced
    assert caught.value.outcomes[cells[0].key].status == ("missing" if forced else "done")
    assert caught.value.outcomes[cells[1].key].status == "missing"
    assert signal.getsignal(signal.SIGINT) is handler


def test_an_executor_is_asked_whether_it_can_place_what_must_run_and_nothing_else(lab, executor):
    data = lab.node("data")
    lab.run(data)
    asked = []
    executor.check = lambda node: asked.append(node.label)
    lab.run(lab.node("top", {"data": data}, hardware={"kind": "gpu", "processes": 8}), executor=executor)
    assert asked == ["top"]
