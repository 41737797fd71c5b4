"""Training with vLLM: trainer and engine agree at every step, on one process or two, and a kill changes nothing."""

from __future__ import annotations

import json
import multiprocessing
import signal
from pathlib import Path

import pytest
from building import VARIED, finetuning_of, job, run_of, settings_of, trainer_of
from safetensors.torch import load_file
from small import build_world, place, stage, whole

from rlfamily.evaluation.generate import write_responses
from rlfamily.evaluation.pairs import write_pairs
from rlfamily.evaluation.score import write_scores
from rlfamily.rollout.settings import Generation

pytestmark = pytest.mark.vllm

AGREE = 2e-4  # nats, fp32 on a CPU
MEMORY = Path("/dev/shm")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The small world with two heads of 32: on CPUs vLLM takes no smaller ones."""
    return build_world(tmp_path_factory.mktemp("world"), "model.hidden_size=64", "model.heads=2", "model.kv_heads=2")


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("finetune", ["full", "lora"])
def test_engine_and_trainer_agree_at_every_step(world, tmp_path, finetune):
    settings = settings_of("rloo", optimizer={"lr": 1e-2}, **VARIED)
    records = list(trainer_of(tmp_path, world, settings, "rloo", finetune=finetune, engine="vllm").steps())
    assert len(records) > 4
    assert {record.metrics["grad_norm"] > 0 for record in records} == {True}
    for record in records:
        assert record.metrics["mismatch_max"] < AGREE
        assert 0 <= record.metrics["mismatch_kl"] < 1e-8


def test_without_a_hand_over_they_part(world, tmp_path, monkeypatch):

    settings = settings_of("rloo", optimizer={"lr": 1e-2}, **VARIED)
    trainer = trainer_of(tmp_path, world, settings, "rloo", engine="vllm")
    monkeypatch.setattr(trainer.source, "refresh", lambda: None)
    records = list(trainer.steps())
    assert records[0].metrics["mismatch_max"] < AGREE  # it starts from the same weights
    assert records[-1].metrics["mismatch_max"] > 0.01


def trained(world, folder, finetune="full", algorithm="rloo", **hardware):
    """The train stage on this hardware; its folder."""
    vllm = {key: hardware.pop(key) for key in ("tensor_parallel",) if key in hardware}
    vllm = place(folder / "unused").hardware.vllm.model_copy(update=vllm).model_dump()
    settings = settings_of(algorithm, prompts=500, batch_prompts=3, warm_start="base", epochs=1, optimizer={"lr": 1e-3}, **VARIED)
    return stage(folder, "train", run_of(world, settings, algorithm, finetune, engine="vllm"),
                 {"data": world.data, "policy": world.base.parent}, vllm=vllm, **hardware)[0]


@pytest.mark.parametrize("finetune", ["full", "lora"])
@pytest.mark.parametrize("tensor_parallel", [1, 2])
def test_two_processes_equal_one(world, tmp_path_factory, finetune, tensor_parallel):
    """Each with an engine, or both with half of one; sharded training is in test_sharded_stage."""
    one = once(world, tmp_path_factory, finetune)
    before = set(MEMORY.glob("*cpushm*"))
    two = trained(world, tmp_path_factory.mktemp("two"), finetune, processes=2, tensor_parallel=tensor_parallel)
    assert set(MEMORY.glob("*cpushm*")) <= before  # names that a next run could stumble over
    ours, theirs = rows_of(one / "metrics.jsonl"), rows_of(two / "metrics.jsonl")
    assert len(ours) == 4
    for row, other in zip(ours, theirs, strict=True):
        assert other["mismatch_max"] < AGREE
        gaps = {key for key in row if key.startswith("mismatch")}
        assert {**other, **dict.fromkeys(gaps, 0)} == pytest.approx({**row, **dict.fromkeys(gaps, 0)}, abs=1e-4, rel=1e-4)
    first, second = load_file(one / "model" / "model.safetensors"), load_file(two / "model" / "model.safetensors")
    assert set(first) == set(second)
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 1e-4


_ONCE: dict = {}


def once(world, tmp_path_factory, finetune):
    if finetune not in _ONCE:
        _ONCE[finetune] = trained(world, tmp_path_factory.mktemp("one"), finetune)
    return _ONCE[finetune]


def test_a_killed_run_ends_as_an_unbroken_one(world, tmp_path):
    settings = settings_of("rloo", optimizer={"lr": 1e-2}, **VARIED)

    def start(folder, die_at):
        process = multiprocessing.get_context("spawn").Process(
            target=job, args=(folder, world, settings, "rloo", die_at), kwargs={"engine": "vllm"})
        process.start()
        process.join()
        return process.exitcode

    assert start(tmp_path / "broken", 3) == -signal.SIGKILL
    assert start(tmp_path / "broken", None) == start(tmp_path / "whole", None) == 0
    for name in ("metrics.jsonl", "samples.jsonl", "model/model.safetensors"):
        assert (tmp_path / "broken" / "out" / name).read_bytes() == (tmp_path / "whole" / "out" / name).read_bytes()


def test_held_out_scores_of_both_engines(world, tmp_path):
    """Greedy responses are the same; sampled ones are draws of the same policy by other streams."""
    found = {}
    for engine in ("torch", "vllm"):
        here, task = place(tmp_path / engine), world.config.task
        settings = Generation(prompts=task.eval_prompts, draws=task.eval_draws, greedy=True, limits=task.evaluation, engine=engine,
                              distribution=task.distribution, decoding=world.config.decoding)
        write_responses(here, world.data, world.base.parent, finetuning_of(world), settings, "1")
        write_scores(here, world.data, here.out, {}, "countdown", task.reward, {})
        found[engine] = rows_of(here.out / "scores.jsonl")
    ours, theirs = found["vllm"], found["torch"]
    assert len(ours) == len(theirs)
    greedy = [row["mode"] == "greedy" for row in theirs]
    assert [row for row, keep in zip(ours, greedy, strict=True) if keep] == [row for row, keep in zip(theirs, greedy, strict=True) if keep]
    assert [row["prompt"] for row in ours] == [row["prompt"] for row in theirs]
    assert [row["response"] for row in ours] != [row["response"] for row in theirs]


def test_pairs_come_from_vllm_too(world, tmp_path):
    here = place(tmp_path)
    summary = write_pairs(here, world.data, world.base, {}, world.lesson(3000), whole(), finetuning_of(world), "vllm", 0)
    assert summary["pairs"] + summary["ties"] == 60
    assert summary["pairs"] == len(rows_of(here.out / "pairs.jsonl")) > 0
