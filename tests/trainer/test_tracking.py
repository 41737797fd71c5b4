"""The wandb mirror: complete or absent, never a second truth."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
from building import settings_of, train
from small import place

from rlfamily.errors import UserError
from rlfamily.evaluation.score import means
from rlfamily.records import write_jsonl
from rlfamily.stages.kinds import score
from rlfamily.stages.store import Effort, Order, Store
from rlfamily.trainer.tracking import Mirrored, make_tracker


def test_off_writes_nothing(world, tmp_path):
    here = place(tmp_path, wandb="off")
    train(here, world, settings_of("sft"), "sft")
    assert {file.name for file in tmp_path.iterdir()} == {"work", "out"}


@pytest.mark.slow
def test_offline_writes_one_finished_run(world, tmp_path):
    here = place(tmp_path, wandb="offline", wandb_names={"table": "P Table 1", "task": "countdown_tiny", "model": "m"})
    train(here, world, settings_of("sft"), "sft")
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    (file,) = run.glob("run-*.wandb")
    content = file.read_bytes()
    for field in (b"train/grad_norm", b"train/entropy", b"train/lr", b"label", b"P Table 1", b"countdown_tiny", b"clip_norm"):
        assert field in content


def scored(world, root, kind, **hardware):
    """The score stage on responses of a policy, which `kind` of stage made; only what it reads is there."""
    data, responses, policy = root / "data", root / "responses", root / "policy"
    shutil.copytree(world.data, data)
    for folder in (responses, policy):
        folder.mkdir()
    row = {"mode": "greedy", "draw": 0, "prompt": "p", "ids": [1], "truncated": False, "tokens": 1}
    write_jsonl(responses / "responses.jsonl", [row | {"item": item, "response": "no"} for item in (0, 1)])
    write_jsonl(policy / "metrics.jsonl", [{"step": 1, "entropy": 9.0}, {"step": 2, "entropy": 7.0}])
    store = Store(root)
    keys = {"policy": "p" * 32, "responses": "r" * 32}
    for name, made, inputs in (("policy", kind, {}), ("responses", "generate", {"policy": keys["policy"]})):
        order = Order(key=keys[name], kind=made, version="1", label=f"label of {name}", config={}, inputs=inputs, hardware={})
        store.commit(order, root / name, {}, Effort(started="", seconds=0.0, attempts=1))
    here = place(root / "stage", **hardware)
    here = replace(here, shared=root)
    config = score.Config(task="countdown", reward=world.config.task.reward, metrics={})
    score.run(here, config, score.Inputs(data, store.layout.object(keys["responses"])))
    return root / "stage" / "wandb"


@pytest.mark.slow
def test_scores_go_into_the_summary_of_the_run_that_made_the_policy(world, tmp_path):
    (run,) = scored(world, tmp_path, "train", wandb="offline", wandb_folder=str(tmp_path / "stage")).glob("offline-run-*")
    assert run.name.endswith("p" * 32)
    (file,) = run.glob("run-*.wandb")
    content = file.read_bytes()
    for field in (b"eval/countdown/greedy/valid", b"eval/countdown/greedy/reward", b"label of policy", b"train/entropy"):
        assert field in content
    assert b"7.0" in content and b"9.0" not in content  # the last value of the curve


@pytest.mark.parametrize(("kind", "mode"), [("train", "off"), ("base", "offline"), ("hub", "offline")])
def test_scores_of_no_mirrored_run_are_not_mirrored(world, tmp_path, kind, mode):
    assert not scored(world, tmp_path, kind, wandb=mode, wandb_folder=str(tmp_path / "stage")).exists()


def test_means_are_named_by_benchmark_mode_and_field():
    rows = [{"mode": "greedy", "item": item, "draw": 0, "valid": valid, "truncated": item > 0, "response": "x", **name}
            for item, (valid, name) in enumerate([(1.0, {}), (0.0, {}), (1.0, {"benchmark": "AIME2024"})])]
    assert means(rows, "math") == {
        "math/greedy/valid": 0.5, "math/greedy/truncated": 0.5, "AIME2024/greedy/valid": 1.0, "AIME2024/greedy/truncated": 1.0}


def test_online_needs_a_key(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(UserError, match="wandb=online needs WANDB_API_KEY in the environment"):
        make_tracker("online", Mirrored(tmp_path, "key", "label", {}, {}))
