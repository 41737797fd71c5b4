"""The train command line, for real and from start to end, on a world of a few thousand weights."""

from __future__ import annotations

import json

import pytest
from small import SMALL

from rlfamily.records import Layout, read_jsonl
from rlfamily.stages.kind import get_kind
from rlfamily.train import NOTHING_TRAINED

CELL = [*SMALL, "algorithm.prompts=400", "wandb=off", "hardware.slots=2", "results=out"]


@pytest.mark.slow
def test_a_cell_then_nothing_then_a_sweep(run_cli, tmp_path):
    first = run_cli("rlfamily.train", *CELL)
    assert first.returncode == 0, first.stderr
    lines = first.stdout.splitlines()
    assert lines[0] == "reused   0 of 7 stages; 7 to run"
    start = lines.index("topr on countdown_tiny · seed 0")
    assert [line.split()[0] for line in lines[start + 1:]] == ["greedy", "sample", "run", "score"]
    run, score = (tmp_path / line.split()[1] for line in lines[start + 3:])
    assert len(list(read_jsonl(score / "scores.jsonl"))) == 24
    manifest = Layout(tmp_path / "out").manifest(run.name)
    assert (manifest.kind, manifest.summary["steps"]) == ("train", len(list(read_jsonl(run / "metrics.jsonl"))))
    assert {file for file in manifest.files if "/" not in file} == {"metrics.jsonl", "timings.jsonl", "samples.jsonl"}
    assert "model/model.safetensors" in manifest.files

    before = objects(tmp_path)
    again = run_cli("rlfamily.train", *CELL)
    assert (again.returncode, again.stdout.splitlines()) == (0, ["reused   all 7 stages: nothing to run", *lines[start:]])
    assert objects(tmp_path) == before

    sweep = run_cli("rlfamily.train", "-m", *CELL, "algorithm=topr,rloo", "seed=0,1")
    assert sweep.returncode == 0, sweep.stderr
    names = [line for line in sweep.stdout.splitlines() if " on countdown_tiny · seed " in line and "/" not in line]
    assert names == [f"{name} on countdown_tiny · seed {seed}" for name in ("topr", "rloo") for seed in (0, 1)]
    kinds = [manifest_of(tmp_path, key)["kind"] for key in objects(tmp_path)]
    assert {kind: kinds.count(kind) for kind in kinds} == {"data": 1, "lengths": 1, "base": 1, "train": 6, "generate": 4, "score": 4}
    for manifest in (manifest_of(tmp_path, key) for key in objects(tmp_path)):
        written = {name.partition("/")[0] + "/" * ("/" in name) for name in manifest["files"]}
        assert written <= set(get_kind(manifest["kind"]).WRITES), manifest["kind"]


@pytest.mark.slow
@pytest.mark.parametrize(("start", "kinds"), [("base", ["base", "data", "generate", "lengths", "score"]),
                                             ("sft", ["base", "data", "generate", "lengths", "score", "train"])])
def test_what_trains_nothing_scores_its_start_and_says_so(run_cli, tmp_path, start, kinds):
    done = run_cli("rlfamily.train", *SMALL, "wandb=off", "results=out", "algorithm=none", f"algorithm.warm_start={start}")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[-4:]] == ["greedy", "sample", "run", "score"]
    assert lines[-2].split(maxsplit=1) == ["run", NOTHING_TRAINED[start]]
    assert sorted(manifest_of(tmp_path, key)["kind"] for key in objects(tmp_path)) == kinds


@pytest.mark.slow
def test_a_cell_that_fails_stops_no_other(run_cli, tmp_path):
    """The train split has 64 puzzles, the first cell asks for 100."""
    done = run_cli("rlfamily.train", "-m", *CELL, "algorithm.warm_start=base", "algorithm.prompts=5000,400")
    assert done.returncode == 1
    reported = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(reported) == 1
    assert "data: 100 prompts asked for, train split has 64" in reported[0]
    assert "log: " in reported[0]
    assert "Traceback" not in done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[-2:]] == ["run", "score"]


def test_help_and_the_resolved_configuration_are_hydras(run_cli, tmp_path):
    shown = run_cli("rlfamily.train", "--cfg", "job", "algorithm=rloo")
    assert shown.returncode == 0
    assert "group_size: 4" in shown.stdout
    assert run_cli("rlfamily.train", "--help").returncode == 0
    assert list(tmp_path.iterdir()) == []


def objects(folder):
    return sorted(path.name for path in (folder / "out" / "artifacts" / "objects").glob("*/*"))


def manifest_of(folder, key):
    return json.loads((Layout(folder / "out").object(key) / "manifest.json").read_text())
