"""Killed at any moment and started again, a run leaves the bytes of one that was never killed."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from building import job, settings_of, train, trainer_of
from small import place

from rlfamily import algorithms
from rlfamily.trainer import checkpoint, record

RUNS = {name: (name, "full", {}) for name in algorithms.names()} | {
    "rloo, KL in the loss": ("rloo", "full", {"kl": {"coef": 0.1, "form": "k3", "place": "loss"}, "inner_updates": 2}),
    "rloo, adapters": ("rloo", "lora", {"kl_ref_every": 2}),
    "topr, replay": ("topr", "full", {"epochs": 2, "resample_each_epoch": False}),
    "ppo, two updates": ("ppo", "full", {"inner_updates": 2}),
    "ppo, adapters": ("ppo", "lora", {}),
    "oreo_online, steps": ("oreo_online", "full", {"level": "step", "inner_updates": 2}),
    "topr, running mean": ("topr", "full", {"epochs": 2, "resample_each_epoch": True, "baseline": "running_mean"}),
    "kto, canonical": ("kto", "full", {"variant": "canonical", "reward": "shuffled"}),
    "dro, network apart": ("dro", "full", {"variant": "separate", "value_network": "apart"}),
}
TRUTH = ("metrics.jsonl", "samples.jsonl", "model/model.safetensors")


def content(out):
    return {name: (out / name).read_bytes() for name in TRUTH}


def start(*args, **options):
    """Fork: the heavy imports are done, and the child shares nothing that it changes."""
    process = multiprocessing.get_context("fork").Process(target=job, args=args, kwargs=options)
    process.start()
    return process


def kill_after_a_checkpoint(process, path, delay):
    """SIGKILL from outside, `delay` seconds after the next checkpoint begins or is done."""
    before = path.stat().st_mtime_ns
    while process.is_alive() and path.stat().st_mtime_ns == before:
        time.sleep(0.001)
    time.sleep(delay)
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    return process.exitcode


@pytest.mark.parametrize("run", RUNS)
def test_a_killed_run_ends_as_if_it_had_not_been(world, folders, tmp_path, run):
    name, finetune, changes = RUNS[run]
    settings = settings_of(name, optimizer={"schedule": "linear", "warmup_steps": 3}, **{"batch_prompts": 2} | changes)
    options = folders[name] | {"finetune": finetune}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    totals = train(place(whole), world, settings, name, **options)

    rng, kept = random.Random(run), b""
    path, timings = broken / "work" / "checkpoint.pt", broken / "work" / "timings.jsonl"
    for die_at in sorted(rng.sample(range(2, totals["steps"]), 2)):
        process = start(broken, world, settings, name, die_at=die_at, **options)
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        lines = timings.read_bytes().splitlines(keepends=True)
        assert len(lines) == die_at - 1  # the step that died was still in a buffer
        assert b"".join(lines).startswith(kept)  # it went on from where it was, and did not begin anew
        kept = b"".join(lines)
    for _ in range(2):
        kill_after_a_checkpoint(start(broken, world, settings, name, **options), path, rng.random() * 0.02)
    last = start(broken, world, settings, name, **options)
    last.join(60)
    assert last.exitcode == 0
    assert content(broken / "out") == content(whole / "out")
    assert (broken / "out" / "timings.jsonl").read_bytes().startswith(kept)


def test_a_finished_run_is_not_run_again(world, tmp_path):
    settings, here = settings_of("topr"), place(tmp_path)
    first = train(here, world, settings, "topr")
    before = content(here.out)
    for file in here.out.iterdir():
        if file.is_file():
            file.unlink()
    assert train(here, world, settings, "topr") == first
    assert content(here.out) == before


def test_a_torn_checkpoint_leaves_the_old_one(world, tmp_path, monkeypatch):
    trainer = trainer_of(tmp_path, world, settings_of("sft"), "sft")
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, trainer, {})
    good = path.read_bytes()

    def torn(content, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(path, trainer, {})
    assert path.read_bytes() == good


def test_checkpoints_and_samples_are_as_many_as_asked_for(world, tmp_path, monkeypatch):
    """By a clock that ticks once at each look: a checkpoint every third look, and one at the end."""
    settings, here = settings_of("rloo", epochs=2, resample_each_epoch=False, batch_prompts=2), place(tmp_path, checkpoint_seconds=3.0)
    ticks, saved, save = itertools.count(), [], checkpoint.save
    monkeypatch.setattr(record, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    monkeypatch.setattr(record, "SAMPLES_KEPT", 3)
    monkeypatch.setattr(checkpoint, "save", lambda path, trainer, extra: saved.append(trainer.step) or save(path, trainer, extra))
    totals = train(here, world, settings, "rloo")
    assert totals["steps"] == 20 and saved == [3, 6, 9, 12, 15, 18, 20]
    samples, timings = ([json.loads(line) for line in (here.out / f"{name}.jsonl").read_text().splitlines()]
                        for name in ("samples", "timings"))
    assert sorted({row["step"] for row in samples}) == [0, 6, 12, 18]
    assert 0 < sum("seconds_reward" in row for row in timings) < len(timings)  # what is replayed was rewarded before
    assert totals["seconds_reward"] == pytest.approx(sum(row["seconds_reward"] for row in timings if "seconds_reward" in row), abs=1e-3)


def test_no_code_of_a_checkpoint_runs(world, tmp_path):
    class Hostile:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    trainer = trainer_of(tmp_path, world, settings_of("sft"), "sft")
    checkpoint.save(tmp_path / "c.pt", trainer, {"extra": Hostile()})
    assert checkpoint.read(tmp_path / "c.pt", trainer) is None
    assert not (tmp_path / "ran").exists() and (tmp_path / "c.pt.unreadable").exists()


def test_every_random_stream_comes_back(world, tmp_path):
    import numpy

    def draw():
        return torch.rand(3).tolist(), random.random(), numpy.random.rand(2).tolist(), numpy.random.randn()

    trainer = trainer_of(tmp_path, world, settings_of("sft"), "sft")
    draw()
    checkpoint.save(tmp_path / "c.pt", trainer, {"metrics.jsonl": 7})
    expected = draw()
    torch.manual_seed(99)
    random.seed(99)
    numpy.random.seed(99)
    assert checkpoint.restore(checkpoint.read(tmp_path / "c.pt", trainer), trainer) == {"metrics.jsonl": 7}
    assert draw() == expected


@pytest.mark.parametrize("damage", ["empty", "cut short", "garbage", "another file", "a log that lost its end"])
def test_a_checkpoint_that_cannot_be_used_is_set_aside_and_the_run_begins_anew(world, tmp_path, damage, capfd):
    """It failed the stage before, run after run."""
    settings, whole, broken = settings_of("topr"), place(tmp_path / "whole"), place(tmp_path / "broken")
    train(whole, world, settings, "topr")
    train(broken, world, settings, "topr")
    path, log = broken.work / "checkpoint.pt", broken.work / "metrics.jsonl"
    spoil = {
        "empty": lambda: path.write_bytes(b""),
        "cut short": lambda: path.write_bytes(path.read_bytes()[:path.stat().st_size // 2]),
        "garbage": lambda: path.write_bytes(random.Random(0).randbytes(5000)),
        "another file": lambda: torch.save({"step": 1}, path),
        "a log that lost its end": lambda: log.write_bytes(log.read_bytes()[:-9]),
    }
    spoil[damage]()
    for file in broken.out.iterdir():
        if file.is_file():
            file.unlink()
    capfd.readouterr()
    train(broken, world, settings, "topr")
    assert content(broken.out) == content(whole.out)
    assert [file.name for file in broken.work.glob("*.unreadable")] == ["checkpoint.pt.unreadable"]
    assert f"warning: {path} cannot be used (" in capfd.readouterr().out
