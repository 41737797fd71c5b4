"""A value function learns what becomes of prefixes, resumes, and learns nothing from shuffled rewards."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
from dataclasses import replace
from statistics import correlation

import pytest
import torch
from building import finetuning_of
from sharded import SHARDED, same
from small import place, stage

from rlfamily.errors import UserError
from rlfamily.models import reward_model, value
from rlfamily.models.batching import Rows
from rlfamily.records import read_jsonl, write_jsonl
from rlfamily.trainer import value_function
from rlfamily.trainer.value_function import Inputs
from rlfamily.values import ValueFit

CPU = torch.device("cpu")
EPOCHS = 6
GOOD, BAD, LENGTH = "8", "3", 6  # words: each is worth a point, or costs one
OPTIMIZER = {"lr": 1e-2, "beta1": 0.9, "beta2": 0.98, "weight_decay": 0.0, "clip_norm": 1.0, "schedule": "linear",
             "warmup_steps": 0}


def fit(kind="mc", epochs=3, betas=(), lr=1e-2, **changes):
    own = {"td": {"gamma": 1.0}, "gae": {"gamma": 1.0, "lam": 1.0}, "fudge": {"threshold": 0.5}}.get(kind, {})
    training = {"loss": {"kind": kind, "reduction": "token_mean", **own, **changes.pop("loss", {})}, "batch_rows": 32,
                "epochs": epochs, "optimizer": OPTIMIZER | {"lr": lr}}
    return ValueFit.model_validate({"training": training, "rows": 10_000, "max_tokens": 40, "rewards": "task",
                                    "drop_unanimous": False, "betas": list(betas), "seed": 0} | changes)


def outcome(tokenizer, prompt, words):
    """A response whose reward is in its words."""
    text = " ".join(words)
    return {"prompt": prompt, "response": text, "truncated": False, "reward": float(words.count(GOOD) - words.count(BAD)),
            "prompt_ids": tokenizer(prompt)["input_ids"], "ids": [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]}


def write(world, folder, reward=lambda row: row["reward"], prompts=150, copies=4):
    rng, tokenizer = random.Random(0), world.policy().tokenizer
    asked = [f"use {number // 81 + 1} {number // 9 % 9 + 1} {number % 9 + 1} :" for number in range(prompts)]
    rng.shuffle(asked)
    rows = [outcome(tokenizer, prompt, rng.choices([GOOD, BAD, "1", "2", "+"], k=rng.randrange(2, LENGTH)))
            for prompt in asked for _ in range(copies)]
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "outcomes.jsonl", [row | {"reward": reward(row)} for row in rows])
    return folder


@pytest.fixture(scope="module")
def outcomes(world, tmp_path_factory):
    return write(world, tmp_path_factory.mktemp("outcomes"))


def run(world, here, settings, outcomes, start=None, teachers=None, beside=None):
    given = Inputs(start or world.base, world.base, {"one": outcomes, **(beside or {})}, teachers or {})
    return value_function.train(here, given, settings, finetuning_of(world))


@pytest.fixture(scope="module")
def trained(world, outcomes, tmp_path_factory):
    here = place(tmp_path_factory.mktemp("trained"))
    return here, run(world, here, fit(epochs=EPOCHS), outcomes)


def test_it_foretells_the_rewards_of_prompts_it_has_not_seen(world, trained):
    here, totals = trained
    assert totals["outcomes"] == 600 and totals["held_out_outcomes"] == 60 and totals["steps"] == EPOCHS * 17
    assert totals["held_out_correlation"] > 0.8
    assert 0.1 < totals["held_out_explained"] < totals["held_out_correlation"] ** 2
    found = value.load(here.out / "model", "fp32", CPU, trainable=False)
    tokenizer = found.tokenizer
    rows = [outcome(tokenizer, "use 1 2 3 4 :", words) for words in ([GOOD, GOOD, "1"], ["1", "2", "1"], [BAD, BAD, "1"])]
    best, plain, worst = found.score_rows(Rows([row["prompt_ids"] for row in rows], [row["ids"][:2] for row in rows]), 100)
    assert best > plain + 0.5 > worst + 1.0
    lines = [json.loads(line) for line in (here.out / "metrics.jsonl").read_text().splitlines()]
    assert {"loss", "value_prompt", "value_complete", "reward", "truncated", "grad_norm"} <= set(lines[0])
    assert lines[-1]["loss"] < lines[0]["loss"] / 2 and {path.name for path in here.out.iterdir()} == {
        "model", "metrics.jsonl", "timings.jsonl", "samples.jsonl"}


def test_the_numbers_held_out_are_those_of_its_model(world, outcomes, trained):
    here, totals = trained
    rows = list(read_jsonl(outcomes / "outcomes.jsonl"))[:60]
    found = value.load(here.out / "model", "fp32", CPU, trainable=False)
    states = found.score_states(Rows([row["prompt_ids"] for row in rows], [row["ids"] for row in rows]), 500)
    rewards = [row["reward"] for row in rows]
    assert totals["held_out_correlation"] == pytest.approx(correlation([row[-1] for row in states], rewards), abs=1e-4)
    halfway = [row[len(ids["ids"]) // 2] for row, ids in zip(states, rows, strict=True)]
    assert totals["held_out_explained"] == pytest.approx(correlation(halfway, rewards) ** 2, abs=1e-4)
    errors = [(one - reward) ** 2 for row, reward in zip(states, rewards, strict=True) for one in row]
    assert totals["held_out_loss"] == pytest.approx(sum(errors) / len(errors), abs=1e-4)


@pytest.mark.parametrize("kind", ["td", "gae", "bce", "fudge"])
def test_every_target_can_be_fitted(world, tmp_path, kind):
    folder = write(world, tmp_path / "outcomes", lambda row: float(row["reward"] > 0) if kind == "bce" else row["reward"])
    totals = run(world, place(tmp_path), fit(kind), folder)
    assert totals["held_out_correlation"] > 0.5


def test_shuffled_rewards_teach_nothing(world, outcomes, tmp_path):
    totals = run(world, place(tmp_path), fit(rewards="shuffled"), outcomes)
    assert abs(totals["held_out_correlation"]) < 0.4 and totals["held_out_explained"] < 0.15
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] > 0.5


def test_it_starts_from_a_reward_model_and_from_another_value_function(world, outcomes, trained, tmp_path):
    torch.manual_seed(0)
    scorer = reward_model.load(world.base, world.finetuning, CPU, trainable=True)
    scorer.bias = 2.0
    scorer.save(tmp_path / "scorer")
    still = fit(lr=0.0, epochs=1)
    rows = list(read_jsonl(outcomes / "outcomes.jsonl"))[:60]
    for start in (tmp_path / "scorer", trained[0].out / "model"):
        totals = run(world, place(tmp_path / start.parent.name), still, outcomes, start=start)
        found = value.load(start, "fp32", CPU, trainable=False).score_rows(
            Rows([row["prompt_ids"] for row in rows], [row["ids"] for row in rows]), 500)
        assert totals["held_out_correlation"] == pytest.approx(correlation(found, [row["reward"] for row in rows]), abs=1e-4)
        written = json.loads((tmp_path / start.parent.name / "out" / "model" / "reward_bias.json").read_text())
        assert written["bias"] == (2.0 if start.name == "scorer" else 0.0)


# ---------------------------------------------------------------------------- compression


def test_a_compressed_one_is_the_sum_of_its_teachers(world, outcomes, trained, tmp_path):
    teachers = {"2": trained[0].out, "10": tmp_path / "other"}
    other = value.load(world.base, "fp32", CPU, trainable=False, seed=3)
    other.save(tmp_path / "other" / "model")
    settings = fit("compressed", betas=[1.0, 4.0], epochs=6)
    totals = run(world, place(tmp_path / "here"), settings, outcomes, start=trained[0].out / "model", teachers=teachers)
    rows = list(read_jsonl(outcomes / "outcomes.jsonl"))[:60]
    both, found = Rows([row["prompt_ids"] for row in rows], [row["ids"] for row in rows]), tmp_path / "here" / "out" / "model"
    first, second, sum_of = ([one for row in model.score_states(both, 500) for one in row] for model in (
        value.load(trained[0].out / "model", "fp32", CPU, False), other, value.load(found, "fp32", CPU, False)))
    wanted = [one + two / 4.0 for one, two in zip(first, second, strict=True)]
    assert correlation(sum_of, wanted) > 0.95 and correlation(first, wanted) < correlation(sum_of, wanted)
    errors = [(one - right) ** 2 for one, right in zip(sum_of, wanted, strict=True)]
    assert totals["held_out_loss"] == pytest.approx(sum(errors) / len(errors), abs=1e-4)


def test_teachers_are_asked_once(world, outcomes, trained, tmp_path, monkeypatch):
    settings, teachers = fit("compressed", betas=[1.0], epochs=1), {"one": trained[0].out}
    run(world, place(tmp_path), settings, outcomes, teachers=teachers)
    monkeypatch.setattr(value_function, "value", None)  # it would load them
    monkeypatch.setattr(value_function.sharding, "placed", lambda load, accelerator: value.load(world.base, "fp32", CPU, True, 0))
    shutil.rmtree(tmp_path / "out")
    run(world, place(tmp_path), settings, outcomes, teachers=teachers)


# ---------------------------------------------------------------------------- resume


def job(folder, world, settings, outcomes, die_at, teachers):
    def progress(step, total, note=""):
        if step == die_at and not note.startswith("teacher"):
            os.kill(os.getpid(), signal.SIGKILL)

    here = place(folder, checkpoint_seconds=0.0)
    run(world, replace(here, progress=progress), settings, outcomes, teachers=teachers)


@pytest.mark.parametrize("kind", ["mc", "td", "compressed"])
def test_a_killed_run_ends_as_if_it_had_not_been(world, outcomes, trained, tmp_path, kind):
    betas, teachers = ([2.0], {"one": trained[0].out}) if kind == "compressed" else ([], {})
    settings = fit(kind, betas=betas, epochs=1, rewards="shuffled")
    whole = place(tmp_path / "whole")
    totals = run(world, whole, settings, outcomes, teachers=teachers)
    codes = []
    for die_at in (4, 11, None):
        process = multiprocessing.get_context("fork").Process(
            target=job, args=(tmp_path / "broken", world, settings, outcomes, die_at, teachers))
        process.start()
        process.join(120)
        codes.append(process.exitcode)
    assert codes == [-signal.SIGKILL, -signal.SIGKILL, 0] and totals["steps"] == 17
    for name in ("metrics.jsonl", "samples.jsonl", "model/model.safetensors"):
        assert (tmp_path / "broken" / "out" / name).read_bytes() == (whole.out / name).read_bytes()


# ---------------------------------------------------------------------------- data


def test_rows_of_a_prompt_lie_side_by_side_and_no_prompt_is_in_both(world, outcomes, tmp_path, monkeypatch):
    seen, sources = [], value_function.OutcomeSource
    monkeypatch.setattr(value_function, "OutcomeSource", lambda *given: seen.append(sources(*given)) or seen[0])
    run(world, place(tmp_path), fit(epochs=1), outcomes)
    (source,) = seen
    batches = [source.batch(step, None) for step in range(source.total_steps)]
    assert [len(batch.rows) for batch in batches] == [32] * 16 + [28]
    for batch in batches:
        prompts = [tuple(prompt) for prompt in batch.rows.prompts]
        assert sum(one != other for one, other in zip(prompts, prompts[1:], strict=False)) == len(set(prompts)) - 1
    trained = {tuple(prompt) for batch in batches for prompt in batch.rows.prompts}
    everything = [tuple(row["prompt_ids"]) for row in read_jsonl(outcomes / "outcomes.jsonl")]
    assert len(set(everything) - trained) == len(set(everything)) // 10 and len(trained) == len(set(everything)) - len(set(everything)) // 10


def test_other_tokens_are_made_of_the_texts(world, outcomes, tmp_path, monkeypatch):
    """The same outcomes as if the policy's tokens were others: the texts say what they were."""
    folder, read = tmp_path / "outcomes", []
    folder.mkdir()
    rows = list(read_jsonl(outcomes / "outcomes.jsonl"))
    write_jsonl(folder / "outcomes.jsonl", [row | {"prompt_ids": [one + 1000 for one in row["prompt_ids"]], "ids": [7, 7]} for row in rows])
    monkeypatch.setattr(value_function, "same_tokens", lambda one, other: False)
    sources = value_function.OutcomeSource
    monkeypatch.setattr(value_function, "OutcomeSource", lambda given, *rest: read.append(given) or sources(given, *rest))
    totals = run(world, place(tmp_path), fit(epochs=1), folder)
    assert totals["own_tokens"] is True
    assert read[0].rows.completions == [row["ids"] for row in rows[60:]]
    assert read[0].rows.prompts == [row["prompt_ids"] for row in rows[60:]]


def test_unanimous_prompts_can_be_left_out(world, tmp_path):
    folder = write(world, tmp_path / "outcomes", lambda row: float(row["reward"] > 0), prompts=40)
    rows = list(read_jsonl(folder / "outcomes.jsonl"))
    groups = [[row["reward"] for row in rows[start:start + 4]] for start in range(0, 160, 4)]
    same = sum(len(set(group)) == 1 for group in groups)
    assert 0 < same < 40
    totals = run(world, place(tmp_path), fit("bce", epochs=1, drop_unanimous=True), folder)
    assert totals["unanimous_prompts"] == same and totals["outcomes"] == 160 - 4 * same and totals["prompts"] == 40 - same
    kept = run(world, place(tmp_path / "all"), fit("bce", epochs=1), folder)
    assert kept["unanimous_prompts"] == 0 and kept["outcomes"] == 160


def test_the_first_rows_of_each_outcomes_and_cuts_are_counted(world, outcomes, tmp_path):
    totals = run(world, place(tmp_path), fit(epochs=1, rows=100, max_tokens=9), outcomes, beside={"two": outcomes})
    assert totals["outcomes"] == 200 and totals["prompts"] == 25
    assert 0 < totals["cut_outcomes"] < 200


@pytest.mark.parametrize(("settings", "reward", "text"), [
    (fit(), lambda row: 1.0, "value function: all 540 rewards are 1: nothing can be learned from them"),
    (fit("bce"), lambda row: row["reward"], r"takes rewards in \[0, 1\], and they go from -\d to \d"),
    (fit(drop_unanimous=True), lambda row: 1.0, "all 150 prompts have responses of one reward only"),
    (fit("compressed", betas=[1.0]), lambda row: row["reward"], "0 teachers and 1 betas: name one for each"),
])
def test_what_teaches_nothing_is_refused_in_one_line(world, tmp_path, settings, reward, text):
    with pytest.raises(UserError, match=text) as error:
        run(world, place(tmp_path), settings, write(world, tmp_path / "outcomes", reward))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("kind", "betas", "text"), [("mc", [1.0], "give an empty list"), ("compressed", [], "name a beta a teacher")])
def test_betas_go_with_teachers(kind, betas, text):
    with pytest.raises(ValueError, match=text):
        fit(kind, betas=betas)


# ---------------------------------------------------------------------------- the stage


def config_of(world, **changes):
    from rlfamily.stages.kinds import value as kind

    return kind.Config.model_validate({**fit(**changes).model_dump(), "finetuning": finetuning_of(world)})


def test_the_stage_and_what_it_costs(world, tmp_path):
    from rlfamily.stages.graph import Node
    from rlfamily.stages.kind import cost_of, get_kind
    from rlfamily.stages.kinds import value as kind

    config, hardware = config_of(world, epochs=2), place(tmp_path).hardware
    node = Node("value", config, {}, hardware)
    assert kind.Config.model_validate(node.settings) == config and set(node.uses) == {"values.mc"}
    assert cost_of(get_kind("value"), config, hardware) is None  # its own model's size is not the cell's


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["td", "compressed"])
def test_a_stage_shards(world, trained, tmp_path, kind):
    """As a stage starts it, through torchrun: the numbers of one process, and a model of whole weights."""
    folder = write(world, tmp_path / "outcomes", prompts=30)
    betas, teachers = ([2.0], {"one": trained[0].out}) if kind == "compressed" else ([], {})
    changes = {"kind": kind, "betas": betas, "epochs": 1}
    whole = place(tmp_path / "whole")
    expected = run(world, whole, fit(**changes), folder, teachers=teachers)
    inputs = {"start": world.base.parent, "policy": world.base.parent, "outcomes": {"one": folder}, "teachers": teachers}
    out, totals = stage(tmp_path / "results", "value", config_of(world, **changes), inputs, **SHARDED)
    shutil.copytree(out, tmp_path / "sharded" / "out")
    assert totals["processes"] == 2
    assert {name: totals[name] for name in expected if name.startswith("held_out")} == pytest.approx(
        {name: expected[name] for name in expected if name.startswith("held_out")}, abs=1e-4)
    same(tmp_path / "sharded", tmp_path / "whole")
    assert value.load(out / "model", "fp32", CPU, trainable=False).score_rows(Rows([[5, 6]], [[7]]), 10)
