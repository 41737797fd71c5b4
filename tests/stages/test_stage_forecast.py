"""Forecasts: what the seconds of finished stages tell of others, and what they do not."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from rlfamily import plan, reproduce, tasks
from rlfamily.config import build
from rlfamily.stages import forecast, measured
from rlfamily.stages.forecast import History, Origin, origin_of
from rlfamily.stages.graph import topological
from rlfamily.stages.kind import kind_names
from rlfamily.stages.store import MANIFEST, Store

TINY = ["task=math_tiny", "model=qwen2_tiny", "algorithm=grpo"]
PAPER = ["task=math", "model=qwen25_math_7b", "hardware=gpu", "algorithm=grpo"]
ELSEWHERE = {"train": {"math": 7.0, "countdown": 3.0}, "score": {"countdown": 1.0}}


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch):
    monkeypatch.setattr(forecast, "shipped", lambda: ELSEWHERE)


def nodes(*overrides):
    """By kind: the stages of a cell, those behind it among them."""
    return {node.kind: node for node in topological(plan.stages(build(overrides), ["train", "score"]).values())}


def finish(root, seconds, *overrides):
    """Manifests of all those stages, as if they had taken `seconds` each."""
    store = Store(root)
    for node in nodes(*overrides).values():
        folder = store.layout.object(node.key)
        folder.mkdir(parents=True)
        content = {"kind": node.kind, "label": node.label, "config": node.settings, "inputs": node.input_keys,
                   "seconds": seconds, "cpu_seconds": seconds / 2}
        (folder / MANIFEST).write_text(json.dumps(content))
    return History(store)


@pytest.mark.parametrize("kind", ["data", "train", "generate", "score"])
@pytest.mark.parametrize(("mine", "other"), [(TINY, PAPER), (PAPER, TINY)])
def test_stand_ins_and_published_models_never_price_each_other(tmp_path, kind, mine, other):
    history = finish(tmp_path, 9999.0, *mine)
    assert history.seconds(nodes(*mine, "seed=1")[kind]) == 9999.0
    assert history.seconds(nodes(*other)[kind]) != 9999.0
    history.add(nodes(*other)[kind], 5.0)
    assert history.seconds(nodes(*other, "seed=1")[kind]) == 5.0
    assert history.seconds(nodes(*mine, "seed=1")[kind]) == 9999.0


def test_what_was_measured_elsewhere_serves_stand_ins_until_there_are_own(tmp_path):
    history = History(Store(tmp_path))
    assert history.seconds(nodes(*TINY)["train"]) == 7.0
    assert history.seconds(nodes(*TINY)["score"]) == 1.0  # of another task, for want of this one
    assert history.seconds(nodes(*TINY)["generate"]) is None
    assert history.seconds(nodes(*PAPER)["train"]) is None
    history.add(nodes("task=countdown_tiny")["train"], 20.0)
    assert history.seconds(nodes(*TINY)["train"]) == 7.0  # the same task elsewhere before another one here
    assert history.seconds(nodes("task=tldr_tiny", "algorithm.warm_start=base")["train"]) == 20.0
    history.add(nodes(*TINY)["train"], 9.0)
    assert history.seconds(nodes(*TINY, "seed=3")["train"]) == 9.0


def test_the_origin_is_what_stands_behind():
    data = {"task": {"kind": "math", "source": {"kind": "generated"}}}
    hub = {"task": {"kind": "math", "source": {"kind": "hub"}}}
    own, published = Origin(False, "math"), Origin(True, "math")
    assert origin_of("data", data, []) == own and origin_of("data", hub, []) == published
    assert origin_of("train", {}, [own, origin_of("hub", {}, [])]) == published
    assert origin_of("score", {}, [own, own]) == own and origin_of("theory", {}, []) == Origin(False, "")


def planned(capsys, root, *arguments):
    assert reproduce.main(reproduce.parse([*arguments, "--plan", f"results={root}"])) == 0
    return " ".join(capsys.readouterr().out.split())


def test_a_plan_says_what_is_unknown(tmp_path, capsys, monkeypatch):
    finish(tmp_path, 60.0, *TINY)
    paper = planned(capsys, tmp_path, "gnivo_tab1", "scale=paper", "rows=Ours")
    assert "to run, " in paper and "of unknown time" in paper and "about" not in paper.split("cells,")[1].split("cells ")[0]
    fresh = planned(capsys, tmp_path / "none", "topr_tab2")
    assert "of one slot's time" in fresh and "about 0 s" not in fresh and "unknown" in fresh
    monkeypatch.setattr(forecast, "shipped", dict)
    assert "of one slot's time" not in planned(capsys, tmp_path / "none", "topr_tab2")


def test_measuring_writes_medians_of_cpu_seconds_by_kind_and_task(tmp_path, capsys):
    finish(tmp_path / "results", 4.0, *TINY)
    finish(tmp_path / "results", 800.0, *PAPER)
    assert measured.main([str(tmp_path / "results")], tmp_path / "seconds.json") == 0
    found = json.loads((tmp_path / "seconds.json").read_text())
    assert found == {kind: {"math": 2.0} for kind in ("base", "data", "generate", "lengths", "score", "train")}
    assert measured.main([], tmp_path / "seconds.json") == measured.main([str(tmp_path)], tmp_path / "s.json") == 2
    assert capsys.readouterr().err.count("error: measured: name one results folder") == 2


def test_what_nobody_counted_is_not_measured(tmp_path):
    finish(tmp_path, 4.0, *TINY)
    for manifest in tmp_path.rglob(MANIFEST):
        manifest.write_text(json.dumps({name: value for name, value in json.loads(manifest.read_text()).items()
                                        if name != "cpu_seconds"}))
    assert History(Store(tmp_path)).medians() == {}
    assert History(Store(tmp_path)).seconds(nodes(*TINY, "seed=1")["train"]) == 4.0


def test_what_ships_prices_a_fresh_clone():
    there = json.loads(forecast.SHIPPED.read_text())
    assert {"data", "lengths", "base", "train", "generate", "score"} <= {kind for kind, tasks in there.items() if "countdown" in tasks}


def test_what_ships_is_of_stages_that_there_are():
    there = json.loads(forecast.SHIPPED.read_text())
    assert set(there) <= set(kind_names()) - {"hub"}
    for found in there.values():
        assert set(found) <= {*tasks.names(), ""} and all(seconds >= 0 for seconds in found.values())


def test_the_documented_command_is_there():
    done = subprocess.run([sys.executable, "-m", "rlfamily.stages.measured"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
