"""What people see: the plan, forecasts, lines, the live table."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from rlfamily.records import Progress, write_atomic
from rlfamily.stages import progress as module
from rlfamily.stages.forecast import History, plan
from rlfamily.stages.progress import LineView, LiveView, Outlook, clock, view
from rlfamily.stages.scheduler import Event, run_graph
from rlfamily.stages.store import Store


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "?"), (0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7620, "2 h 07 min")],
)
def test_clock(seconds, text):
    assert clock(seconds) == text


def cells(lab):
    data = lab.node("data")
    return [lab.node("fine", {"data": data}), lab.node("broken", {"data": data}, action="fail")]


def test_plan_shows_states_and_starts_nothing(lab):
    table = lab.node("table", {"broken": cells(lab)[1]})
    assert [(row.label, row.state, row.seconds) for row in plan([table], lab.root)] == [
        ("data", "missing", None), ("broken", "missing", None), ("table", "missing", None)]
    assert not lab.root.exists()
    lab.run(table)
    rows = plan([table], lab.root)
    assert [(row.label, row.kind, row.state) for row in rows] == [
        ("data", "toy", "exists"), ("broken", "toy", "failed"), ("table", "toy", "missing")]
    assert rows[0].seconds == 0.0 and rows[2].seconds == pytest.approx(0.0, abs=1.0)


def test_forecast_is_the_median_of_the_most_similar_labels(lab):
    history = History(Store(lab.root))
    for label, seconds in [("train topr 0", 10), ("train topr 1", 30), ("train topr 2", 20), ("train dpo 0", 500)]:
        history.add(lab.node(label), seconds)
    assert history.seconds(lab.node("train topr 7")) == 20
    assert history.seconds(lab.node("train dpo 7")) == 500
    assert history.seconds(lab.node("other")) == pytest.approx(25)


def test_forecast_reads_finished_stages(lab):
    lab.run(*cells(lab))
    assert 0.0 <= History(Store(lab.root)).seconds(lab.node("fine again")) < 5.0


def outlook_of(lab, nodes, capacity=2):
    outlook = Outlook(nodes, lab.root, capacity)
    outlook.update(Event("started", nodes[0], "", 0, len(nodes)))
    return outlook


def test_time_left_comes_from_progress_and_history(lab):
    nodes = [lab.node(str(number)) for number in range(4)]
    outlook = outlook_of(lab, nodes)
    assert outlook.remaining() is None
    path = Store(lab.root).layout.work(nodes[0].key) / "progress.json"
    write_atomic(path, Progress(step=2, total=10, seconds=5.0).model_dump_json(), durable=False)
    # 5 s for 2 of 10 steps: 20 s left; the three unknown stages count like it: 4 * 20 / 2 lanes.
    assert outlook.left(nodes[0]) == 20.0 and outlook.remaining() == 40.0


def test_time_left_is_never_less_than_the_longest_stage(lab):
    nodes = [lab.node(str(number)) for number in range(2)]
    outlook = outlook_of(lab, nodes, capacity=8)
    path = Store(lab.root).layout.work(nodes[0].key) / "progress.json"
    write_atomic(path, Progress(step=1, total=101, seconds=1.0).model_dump_json(), durable=False)
    assert outlook.remaining() == 100.0


def test_lines_tell_every_event(lab, executor):
    stream, nodes = io.StringIO(), cells(lab)
    nodes.append(lab.node("table", {"broken": nodes[1]}))
    with view(nodes, lab.root, 2, stream) as listener:
        assert isinstance(listener, LineView)
        run_graph(nodes, lab.root, executor, listener)
    text = stream.getvalue()
    assert re.search(r"^\[1/4, .* left\] done     data \(0 s\)$", text, re.MULTILINE)
    assert "failed   broken: ValueError: the fuse is blown\n" in text
    assert "blocked  table: by broken\n" in text
    assert len(text.splitlines()) == 3 + 2 + 1 + 1


def test_heartbeat_says_where_running_stages_are(lab, monkeypatch):
    nodes, stream = [lab.node("long one"), lab.node("next")], io.StringIO()
    listener = LineView(Outlook(nodes, lab.root, 2), stream)
    listener(Event("started", nodes[0], "", 0, 2))
    path = Store(lab.root).layout.work(nodes[0].key) / "progress.json"
    write_atomic(path, Progress(step=3, total=9, seconds=6.0, note="loss 1.2").model_dump_json(), durable=False)
    listener(Event("tick", None, "", 0, 2))
    assert len(stream.getvalue().splitlines()) == 1
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.0)
    listener(Event("tick", None, "", 0, 2))
    assert stream.getvalue().splitlines()[1] == "[0/2, 12 s left] running  long one 3/9 loss 1.2"


def test_terminal_gets_a_live_table(lab, executor):
    terminal, nodes = Terminal(), cells(lab)
    assert isinstance(view(nodes, lab.root, 2, terminal), LiveView)
    console = Console(file=terminal, force_terminal=True, width=100)
    with LiveView(Outlook(nodes, lab.root, 2), console) as listener:
        run_graph(nodes, lab.root, executor, listener)
    text = terminal.getvalue()
    assert "failed   broken: ValueError: the fuse is blown" in text
    assert "all stages" in text and "2/3, 1 failed" in text


def test_running_stage_has_its_row(lab):
    nodes, terminal = [lab.node("[bold]odd label")], io.StringIO()
    console = Console(file=terminal, width=120)
    live = LiveView(Outlook(nodes, lab.root, 2), console)
    live(Event("started", nodes[0], "", 0, 1))
    path = Store(lab.root).layout.work(nodes[0].key) / "progress.json"
    write_atomic(path, Progress(step=1, total=4, seconds=10.0, note="pretraining").model_dump_json(), durable=False)
    console.print(live.render())
    row = terminal.getvalue().splitlines()[0]
    assert "[bold]odd label" in row and "1/4 pretraining" in row and "30 s left" in row
