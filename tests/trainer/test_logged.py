"""Logged responses as a source: whole ragged groups, rewards standardised on the training split, shared log-probs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from building import finetuning_of, settings_of, train, trainer_of, watched, write_logged
from small import place

from rlfamily.errors import UserError
from rlfamily.evaluation import reference as stage
from rlfamily.examples import read_logged
from rlfamily.models import logged
from rlfamily.models.batching import pad
from rlfamily.records import read_jsonl, write_jsonl
from rlfamily.rollout.clock import Clock
from rlfamily.trainer import jobs


@pytest.fixture(scope="module")
def data(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("log")
    write_logged(world, folder)
    return folder


def evaluate(here, world, data, **changes):
    limit = changes.get("limit", world.config.task.max_tokens_demonstration)
    return stage.write_reference(here, data, world.base, finetuning_of(world), limit)


def test_the_artifact_holds_every_response_with_its_log_probs(world, data, tmp_path):
    here = place(tmp_path, micro_tokens=60)
    summary = evaluate(here, world, data)
    rows, policy, texts = logged.load(here.out / "train.safetensors"), world.policy(), read_logged(data / "logged_train.jsonl")
    assert len(rows) == 24 and rows.sizes == [1, 2, 3, 4] * 6
    assert summary["train_group_sizes"] == {"1": 6, "2": 6, "3": 6, "4": 6}
    for place_, one in enumerate(texts):
        group = rows.group(place_)
        assert group.rewards == one.rewards
        assert [policy.tokenizer.decode(ids, skip_special_tokens=True) for ids in group.rows.completions] == one.responses
        with torch.no_grad():
            alone = [policy.evaluate(pad(replace(group.rows, prompts=[prompt], completions=[ids]), 0), 1.0).logp_NT[0]
                     for prompt, ids in zip(group.rows.prompts, group.rows.completions, strict=True)]
        for found, expected in zip(group.ref_logp, alone, strict=True):
            assert found == pytest.approx(expected.tolist(), abs=1e-5)


def test_rewards_are_standardised_by_the_training_split(world, data, tmp_path):
    summary = evaluate(place(tmp_path), world, data)
    train_N, validation_N = (torch.tensor([reward for one in read_logged(data / f"logged_{split}.jsonl") for reward in one.rewards],
                                          dtype=torch.float64) for split in ("train", "validation"))
    assert summary["reward_mean"] == pytest.approx(train_N.mean().item())
    assert summary["reward_std"] == pytest.approx(train_N.std(correction=0).item())
    standard_N = (validation_N - train_N.mean()) / train_N.std(correction=0)
    assert summary["validation_mean"] == pytest.approx(standard_N.mean().item())
    assert abs(summary["validation_mean"]) > 0.01  # fitted on the other split


def source_of(world, folder, **changes):
    settings = settings_of("rpo", batch_prompts=5, **changes)
    return jobs._logged(folder, settings, world.lesson(1000, demonstrations=True), 0, (2,))


def test_a_prompts_responses_stay_together(world, reference):
    source, rows = source_of(world, reference), logged.load(reference / "train.safetensors")
    assert source.total_steps == 4  # 20 prompts, 1000 times the task's fraction
    seen = []
    for step in range(source.total_steps):
        batch = source.batch(step, Clock())
        assert batch.group_size == 0 and batch.prompt_index_N.tolist() == sorted(batch.prompt_index_N.tolist())
        for index in range(5):
            members = (batch.prompt_index_N == index).nonzero()[:, 0].tolist()
            prompts = {tuple(batch.rows.prompts[row]) for row in members}
            assert len(prompts) == 1
            seen.append(len(members))
        assert [len(row) for row in batch.ref_logp] == [len(row) for row in batch.rows.completions]
    assert sorted(seen) == sorted(rows.sizes[:20])


def test_rewards_of_a_row_stay_with_it_and_shuffled_ones_do_not(world, reference):
    rows = logged.load(reference / "train.safetensors")
    mean, std = rows.rewards_N.mean(), rows.rewards_N.std(correction=0)
    known = {(tuple(group.rows.prompts[0]), tuple(ids)): float((reward - mean) / std) for group in map(rows.group, range(24))
             for ids, reward in zip(group.rows.completions, group.rewards, strict=True)}
    plain, shuffled = source_of(world, reference), source_of(world, reference, reward="shuffled")
    moved = 0
    for step in range(plain.total_steps):
        batch, dealt = plain.batch(step, Clock()), shuffled.batch(step, Clock())
        expected = [known[tuple(prompt), tuple(ids)] for prompt, ids in zip(batch.rows.prompts, batch.rows.completions, strict=True)]
        assert batch.rewards == pytest.approx(expected)
        assert batch.rows == dealt.rows
        moved += sum(one != other for one, other in zip(batch.rewards, dealt.rewards, strict=True))
    assert moved > 20
    assert sorted(plain.rows.rewards_N.tolist()) == sorted(shuffled.rows.rewards_N.tolist())


def test_more_prompts_than_logged_are_refused_or_all_are_taken(world, reference):
    lesson = world.lesson(2000, demonstrations=True)
    with pytest.raises(UserError, match="asks for 40 prompts, the log has 24"):
        jobs._logged(reference, settings_of("rpo"), lesson, 0, (2,))
    taken = jobs._logged(reference, settings_of("rpo"), lesson.model_copy(update={"fewer_prompts": "take"}), 0, (2,))
    assert len(taken.groups) == 24


@pytest.mark.parametrize(("name", "changes", "loads"), [
    ("rpo", {}, False), ("rpo", {"partition": "mc"}, False), ("kto", {}, False),
    ("kto", {"variant": "canonical"}, True), ("sft_logged", {}, False), ("sft_logged", {"kl_ref_every": 2}, False)])
def test_the_reference_model_is_loaded_only_where_its_log_probs_are_not_known(world, folders, tmp_path, name, changes, loads):
    trainer = trainer_of(tmp_path, world, settings_of(name, **changes), name, **folders[name])
    assert (trainer.reference is not None) == loads


def test_before_the_first_update_nothing_is_off_the_reference(world, folders, tmp_path):
    trainer = trainer_of(tmp_path, world, settings_of("rpo"), "rpo", **folders["rpo"])
    batches = watched(trainer)
    record = next(trainer.steps())
    torch.testing.assert_close(batches[0].logp_NT.detach(), batches[0].ref_logp_NT, atol=1e-5, rtol=0)
    assert abs(record.metrics["log_ratio"]) < 1e-5
    assert record.samples == []


def test_a_log_without_a_difference_teaches_nothing(world, data, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for split in stage.SPLITS:
        write_jsonl(flat / f"logged_{split}.jsonl", [
            row | {"rewards": [3.0] * len(row["rewards"])} for row in read_jsonl(data / f"logged_{split}.jsonl")])
    with pytest.raises(UserError, match="all 60 logged rewards of the training split are 3"):
        evaluate(place(tmp_path), world, flat)


def test_prompts_beyond_the_limit_are_left_out_and_counted(world, data, tmp_path):
    rows, other = list(read_jsonl(data / "logged_train.jsonl")), list(read_jsonl(data / "logged_validation.jsonl"))
    limit = world.config.task.max_tokens_demonstration
    for row in rows[:3]:
        row["prompt"] = " ".join([row["prompt"]] * limit)
    write_jsonl(tmp_path / "logged_train.jsonl", rows)
    write_jsonl(tmp_path / "logged_validation.jsonl", other)
    summary = evaluate(place(tmp_path), world, tmp_path)
    assert summary["left_out"] == {f"train prompts of {limit} tokens or more": 3}
    assert summary["train_rows"] == sum(len(row["responses"]) for row in rows[3:])


def test_a_killed_stage_goes_on_with_what_it_has(world, data, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "CHUNK", 4)
    monkeypatch.setattr(stage, "PART", 1)
    whole, broken = place(tmp_path / "whole"), place(tmp_path / "broken")
    evaluate(whole, world, data)
    asked = []
    real = stage._logps
    monkeypatch.setattr(stage, "_logps", lambda *args: asked.append(1) or real(*args))

    def die(done, total, note=""):
        if done == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(replace(broken, progress=die), world, data)
    assert len(asked) == 3
    evaluate(broken, world, data)
    assert len(asked) == 7  # six parts of the training split and one of the other, each once
    for split in stage.SPLITS:
        assert (broken.out / f"{split}.safetensors").read_bytes() == (whole.out / f"{split}.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["rpo", "kto", "sft_logged"])
def test_methods_learn_from_the_log(world, folders, tmp_path, name):
    totals = train(place(tmp_path), world, settings_of(name, epochs=2), name, **folders[name])
    assert totals["steps"] == 10
