"""The sweep's ways do the same cells, a finished table is really finished, and counts are what they say."""

from __future__ import annotations

import os

import pytest
from small import SMALL

from bench import cells, commands
from bench.finished import STEPS, finish
from bench.sweep import Sweep
from rlfamily import experiment, plan
from rlfamily.records import read_jsonl
from rlfamily.stages.graph import topological
from rlfamily.stages.scheduler import needed
from rlfamily.stages.store import Store


def test_a_made_up_table_is_done(tmp_path):
    found = plan.cells(experiment.load("topr_tab2"), "tiny", [f"results={tmp_path}"], [0], ["Experiment 1"])
    targets = list(found[0].stages.values())
    store = Store(tmp_path)
    assert len(needed(targets, store)) == finish(targets, tmp_path) == len(topological(targets)) == 7
    assert needed(targets, store) == []
    assert [problem for node in topological(targets) for problem in store.verify(node.key)] == []
    scores = list(read_jsonl(store.layout.object(found[0].stages["score"].key) / "scores.jsonl"))
    task = found[0].config.task
    assert len(scores) == task.eval_prompts * (1 + task.eval_draws)
    assert len({(row["mode"], row["item"], row["draw"]) for row in scores}) == len(scores)
    assert len(list(read_jsonl(store.layout.object(found[0].stages["train"].key) / "metrics.jsonl"))) == STEPS


def test_the_sweep_has_24_cells():
    assert len(Sweep([0, 1, 2], []).cells("results")) == 24


@pytest.mark.slow
def test_all_ways_sweep_the_same_cells():
    small = [*SMALL, "task.eval_prompts=4", "task.eval_draws=1", "task.pretrain.lines=64", "task.pretrain.epochs=1", "wandb=off"]
    rows = cells.sweeps(Sweep([0], ["Experiment 2"], small), rounds=1)
    assert len(rows) == 3 and rows[0]["ratio"] == 1
    assert all(row["rate"]["median"] == pytest.approx(60 / row["wall"]["median"]) for row in rows)


def test_stages_without_work():
    rows = cells.no_ops(2)
    assert [row["slots"] for row in rows] == sorted({1, os.cpu_count()})
    assert all(row["wall"] > 0 for row in rows)


def test_planning_counts_all_rows():
    (row,) = cells.planning([1])
    assert row["cells"] == 114 and row["each"] == pytest.approx(1000 * row["cpu"] / 114)


def test_a_rerun_does_nothing(monkeypatch):
    monkeypatch.setattr(cells, "RERUN", "topr_tab2")
    (row,) = cells.reruns([1], rounds=1)
    assert row["cells"] == 8 and row["cpu"]["median"] > 0


def test_a_rerun_that_works_is_refused(monkeypatch):
    monkeypatch.setattr(cells, "RERUN", "topr_tab1")
    monkeypatch.setattr(cells, "_again", lambda root, seeds: finish(
        [node for cell in plan.cells(experiment.load("topr_fig1"), "tiny", [f"results={root}"], [seeds])
         for node in cell.stages.values()], root))
    with pytest.raises(RuntimeError, match="the rerun was to do nothing"):
        cells.reruns([1], rounds=1)


def test_a_command_costs_what_its_children_cost():
    """Those too that it leaves behind: half a second of work in a process whose parent is gone."""
    work = "import time\nwhile time.process_time() < 0.5: pass"
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {work!r}], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)"
    done = commands.python("-c", code)
    assert done.code == 0 and done.cost.cpu > 0.5
    with pytest.raises(RuntimeError, match="exit code 3"):
        commands.must(commands.python("-c", "raise SystemExit(3)"))
