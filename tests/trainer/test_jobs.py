"""The jobs that stages run, from their inputs to the files they leave."""

from __future__ import annotations

import json
import random
import shutil
import sys

import pytest
import torch
from building import finetuning_of, run_of, settings_of, train
from safetensors.torch import load_file
from small import place, stage, whole

from rlfamily import tasks
from rlfamily.errors import UserError
from rlfamily.evaluation.gate import gate_value
from rlfamily.evaluation.generate import write_responses
from rlfamily.evaluation.logprobs import write_logprobs
from rlfamily.evaluation.pairs import write_pairs
from rlfamily.evaluation.score import write_scores
from rlfamily.examples import read_demonstrations, read_examples
from rlfamily.models import reward_model, sharding
from rlfamily.records import read_jsonl, write_jsonl
from rlfamily.rewards import RewardParts
from rlfamily.rewards.bradley_terry import LearnedReward
from rlfamily.rewards.verifiable import Verifiable
from rlfamily.rollout.collect import encode_prompt
from rlfamily.rollout.settings import Generation
from rlfamily.stages import launched
from rlfamily.tasks import countdown
from rlfamily.trainer import jobs
from rlfamily.trainer import preference as preference_job

CPU = torch.device("cpu")


def rows_of(path):
    return list(read_jsonl(path))


def generation(world, **changes):
    """How the small world's held-out responses are made."""
    task = world.config.task
    made = {"prompts": task.eval_prompts, "draws": task.eval_draws, "greedy": True, "limits": task.evaluation, "engine": "torch",
            "distribution": task.distribution, "decoding": world.config.decoding}
    return Generation(**made | changes)


def scored(world, folder, hardware=(), **changes):
    """Responses, then their scores: the path of scores.jsonl, and both summaries."""
    here = place(folder, **dict(hardware))
    drawn = write_responses(here, world.data, world.base.parent, finetuning_of(world), generation(world, **changes), "1")
    summary = write_scores(here, world.data, here.out, {}, "countdown", world.config.task.reward, {})
    return here.out / "scores.jsonl", drawn, summary


def gate(world, folder, part="valid"):
    return gate_value(place(folder), world.data, world.base, world.finetuning, "countdown", part, generation(world, draws=1))


def paired(world, here, seed=0):
    return write_pairs(here, world.data, world.base, {}, world.lesson(3000), whole(), finetuning_of(world), "torch", seed)


# ---------------------------------------------------------------------------- held-out scores


@pytest.fixture(scope="module")
def scores(world, tmp_path_factory):
    return scored(world, tmp_path_factory.mktemp("score"))


def test_scores_have_one_greedy_and_some_sampled_draws_an_item(world, scores):
    path, drawn, summary = scores
    rows = rows_of(path)
    expected = [("greedy", item, 0) for item in range(8)] + [("sample", item, draw) for item in range(8) for draw in range(2)]
    assert [(row["mode"], row["item"], row["draw"]) for row in rows] == expected
    assert all(set(row) == {"mode", "item", "draw", "prompt", "response", "valid", "format", "reward", "length",
                            "truncated"} for row in rows)
    prompts = [example.prompt for example in read_examples(world.data / "test.jsonl")]
    assert all(row["prompt"] == prompts[row["item"]] for row in rows)
    assert summary["responses"] == drawn["responses"] == drawn["drawn"] == 24
    assert drawn["cost_tokens"] == sum(row["length"] for row in rows)


def test_scores_are_the_checkers(world, scores):
    examples = read_examples(world.data / "test.jsonl")
    for row in rows_of(scores[0]):
        verdict = tasks.get("countdown").score(row["response"], examples[row["item"]].meta)
        assert (row["valid"], row["format"]) == (verdict["valid"], verdict["format"])
        assert row["reward"] == 2 * (row["valid"] + row["format"]) - 2
        assert type(row["truncated"]) is bool


@pytest.mark.parametrize("hardware", [{"rollout_batch": 3}, {"rollout_batch": 1}])
def test_scores_do_not_depend_on_hardware(world, tmp_path, scores, hardware):
    assert scored(world, tmp_path, hardware)[0].read_bytes() == scores[0].read_bytes()


def test_all_cells_meet_the_same_chance(world, tmp_path, scores):
    """Draw k of a puzzle uses one stream whatever else is asked: more draws or items leave the first ones alone."""
    path, *_ = scored(world, tmp_path, draws=3, prompts=12)
    more = {(row["mode"], row["item"], row["draw"]): row for row in rows_of(path)}
    assert all(more[row["mode"], row["item"], row["draw"]] == row for row in rows_of(scores[0]))


def test_the_gate_counts_solved_puzzles(world, tmp_path, monkeypatch):
    easy = {tuple(example.meta["nums"]) for example in read_examples(world.data / "validation.jsonl")[:2]}
    monkeypatch.setattr(countdown, "score", lambda response, meta: {"valid": float(tuple(meta["nums"]) in easy)})
    assert gate(world, tmp_path) == 2 / 8


def test_a_gate_names_a_part_of_the_score(world, tmp_path):
    with pytest.raises(UserError, match=r"task.pretrain.gate.part: the task's score has no 'vald' \(did you mean 'valid'\?\)"):
        gate(world, tmp_path, "vald")


# ---------------------------------------------------------------------------- preference pairs


def test_pairs_are_ordered_by_the_reward_and_ties_are_dropped(world, pairs, tmp_path):
    rows, policy = rows_of(pairs / "pairs.jsonl"), world.policy()
    reward = Verifiable(tasks.get("countdown").score)
    examples = {example.prompt: example for example in read_examples(world.data / "train.jsonl")}
    assert rows
    for row in rows:
        assert set(row) == {"prompt", "chosen", "rejected", "prompt_ids", "chosen_ids", "rejected_ids", "chosen_truncated",
                            "rejected_truncated"}
        assert row["chosen_truncated"] == (row["chosen_ids"][-1] != policy.eos_id)
        better, worse = reward.score([examples[row["prompt"]]] * 2, [row["chosen"], row["rejected"]])
        assert better.reward > worse.reward
        assert row["prompt_ids"] == encode_prompt(policy.tokenizer, row["prompt"])
        assert policy.tokenizer.decode(row["chosen_ids"], skip_special_tokens=True) == row["chosen"]
    here = place(tmp_path)
    summary = paired(world, here)
    assert summary == {"prompts": 60, "pairs": len(rows), "ties": 60 - len(rows)}
    assert (here.out / "pairs.jsonl").read_bytes() == (pairs / "pairs.jsonl").read_bytes()
    paired(world, here, seed=1)
    assert (here.out / "pairs.jsonl").read_bytes() != (pairs / "pairs.jsonl").read_bytes()


def test_nothing_but_ties_is_an_error(world, tmp_path, monkeypatch):
    monkeypatch.setattr(Verifiable, "score", lambda self, examples, responses, truncated: [RewardParts(0.0, {})] * len(responses))
    with pytest.raises(UserError, match="pairs: all 60 pairs are ties, nothing to prefer"):
        paired(world, place(tmp_path))


def test_groups_of_pairs_have_the_chosen_response_first(pairs):
    row = rows_of(pairs / "pairs.jsonl")[0]
    group = jobs.read_pairs(pairs)[0]
    assert group.prompts == [row["prompt_ids"]] * 2
    assert group.completions == [row["chosen_ids"], row["rejected_ids"]]


# ---------------------------------------------------------------------------- log-probs


@pytest.mark.parametrize("micro_batch", [1, 5, 512])
def test_log_probs_equal_an_independent_gather(world, tmp_path, micro_batch):
    here = place(tmp_path, micro_batch=micro_batch)
    limit = world.config.task.max_tokens_demonstration
    assert write_logprobs(here, world.data, world.base, finetuning_of(world), limit) == {"examples": 32}
    rows = rows_of(here.out / "logprobs.jsonl")
    assert [(row["split"], row["item"]) for row in rows] == [("train", n) for n in range(24)] + [
        ("validation", n) for n in range(8)]
    policy = world.policy()
    for row in rows:
        assert set(row) == {"split", "item", "completion_logp", "completion_tokens", "all_logp", "all_tokens"}
        shown = read_demonstrations(world.data / f"demonstrations_{row['split']}.jsonl")[row["item"]]
        prompt = policy.tokenizer(shown.prompt)["input_ids"]
        ids = torch.tensor([*prompt, *policy.tokenizer(shown.completion)["input_ids"], policy.eos_id])
        with torch.no_grad():
            logp_L = policy.model(ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]
        assert row["all_tokens"] == len(ids) - 1
        assert row["completion_tokens"] == len(ids) - len(prompt)
        assert row["all_logp"] == pytest.approx(float(logp_L.mean()), abs=1e-5)
        assert row["completion_logp"] == pytest.approx(float(logp_L[len(prompt) - 1:].mean()), abs=1e-5)
        assert abs(row["all_logp"] - row["completion_logp"]) > 0.01


# ---------------------------------------------------------------------------- reward model


@pytest.fixture(scope="module")
def preference(world, tmp_path_factory):
    """An obvious one: any response that begins with "so" loses. Some pairs to learn from, others to judge by."""
    policy, rng = world.policy(), random.Random(0)
    prompts = [example.prompt for example in read_examples(world.data / "train.jsonl")]

    def response():
        return " ".join(str(rng.randint(1, 20)) for _ in range(rng.randint(2, 6)))

    rows = [{"prompt": prompt, "chosen": response(), "rejected": f"so {response()}"} for prompt in prompts]
    for row in rows:
        row["prompt_ids"] = encode_prompt(policy.tokenizer, row["prompt"])
        for side in ("chosen", "rejected"):
            row[f"{side}_ids"] = [*encode_prompt(policy.tokenizer, row[side]), policy.eos_id]
    folder = tmp_path_factory.mktemp("preference")
    write_jsonl(folder / "pairs.jsonl", rows[:48])
    return folder, rows[48:]


@pytest.fixture(scope="module")
def judge(world, preference, tmp_path_factory):
    """The place of a trained reward model, and its job's totals."""
    here = place(tmp_path_factory.mktemp("judge"))
    settings = world.config.task.reward_model.model_copy(update={"epochs": 8})
    settings = settings.model_copy(update={"optimizer": settings.optimizer.model_copy(update={"lr": 3e-3})})
    totals = preference_job.train_on_own_pairs(here, world.data, world.base, preference[0], settings, finetuning_of(world), 48, 0)
    return here, totals


def test_a_reward_model_learns_an_obvious_preference(world, preference, judge):
    here, totals = judge
    model = reward_model.load(here.out / "model", world.finetuning, CPU, trainable=False)
    scores = {side: model.score_texts([row["prompt"] for row in preference[1]], [row[side] for row in preference[1]], 8)
              for side in ("chosen", "rejected")}
    assert all(chosen > rejected for chosen, rejected in zip(scores["chosen"], scores["rejected"], strict=True))
    metrics = rows_of(here.out / "metrics.jsonl")
    assert {"loss", "margin", "accuracy", "grad_norm", "lr"} <= set(metrics[0])
    assert metrics[-1]["loss"] < 0.3 < metrics[0]["loss"]
    assert metrics[-1]["accuracy"] == 1
    assert totals["held_out_pairs"] == 4  # of 48; the others train
    assert totals["held_out_accuracy"] == 1 and totals["cut_pairs"] == totals["equal_pairs"] == 0
    assert sum(row["rows"] for row in metrics if row["epoch"] == 0) == 2 * 44


def test_its_bias_centres_the_demonstrations(world, judge):
    model = reward_model.load(judge[0].out / "model", world.finetuning, CPU, trainable=False)
    shown = read_demonstrations(world.data / "demonstrations_validation.jsonl")
    scores = model.score_texts([row.prompt for row in shown], [row.completion for row in shown], 8)
    assert model.bias != 0
    assert sum(scores) / len(scores) == pytest.approx(0, abs=1e-4)


def test_training_may_take_its_reward_from_it(world, judge, tmp_path):
    here = place(tmp_path)
    train(here, world, settings_of("rloo", reward="reward_model"), "rloo", reward=judge[0].out / "model")
    metrics = rows_of(here.out / "metrics.jsonl")
    assert all(row["reward"] != row["mean_true_reward"] for row in metrics)
    samples = rows_of(here.out / "samples.jsonl")
    model = reward_model.load(judge[0].out / "model", world.finetuning, CPU, trainable=False)
    readings = [model.score_texts([samples[0]["prompt"]], [samples[0]["response"]], 1, [cut]) for cut in (False, True)]
    score = min((reading for (reading,) in readings), key=lambda one: abs(one - samples[0]["reward"]))
    assert samples[0]["reward"] == pytest.approx(score, abs=1e-4)


def test_a_learned_reward_keeps_the_verdicts(world, judge):
    model = reward_model.load(judge[0].out / "model", world.finetuning, CPU, trainable=False)
    verifier = Verifiable(tasks.get("countdown").score)
    shown = rows_of(world.data / "demonstrations_train.jsonl")[0]
    example = read_examples(world.data / "train.jsonl")[0]
    texts = [shown["completion"], "nothing"]
    learned = LearnedReward(model, verifier, 8).score([example] * 2, texts)
    plain = verifier.score([example] * 2, texts)
    assert [part.parts for part in learned] == [part.parts | {"true_reward": part.reward} for part in plain]
    assert len({part.reward for part in learned}) == 2
    assert LearnedReward(model, verifier, 8).score([], []) == []


# ---------------------------------------------------------------------------- a train stage, over several processes


PLACED = {"topr": {}, "ppo": {}, "oreo_online": {"level": "step", "whiten": False}, "gnivo": {"sampled_t": 3}}


@pytest.mark.slow
@pytest.mark.parametrize("name", PLACED)
def test_two_processes_equal_one(world, tmp_path, name):
    """Three prompts a step do not divide by two, and the last step has one prompt: a process may have no row.

    Nothing is whitened: the advantages of one response may all but agree, and rounding would be scaled up.
    """
    results = {}
    for processes in (1, 2):
        settings = settings_of(name, prompts=500, batch_prompts=3, kl_ref_every=3, optimizer={"lr": 1e-4},
                               warm_start="base", epochs=1, **PLACED[name])
        root, inputs = tmp_path / str(processes), {"data": world.data, "policy": world.base.parent}
        out, totals = stage(root, "train", run_of(world, settings, name), inputs, processes=processes)
        assert totals["processes"] == processes
        (progress,) = root.glob("artifacts/work/*/progress.json")
        assert json.loads(progress.read_text())["step"] == totals["steps"] == 4
        results[processes] = out
    ours, theirs = (rows_of(results[n] / "metrics.jsonl") for n in (1, 2))
    assert len(ours) == 4
    for row, other in zip(ours, theirs, strict=True):  # the gap is measured on the rows passed, which may be fewer alone
        row, other = ({key: value for key, value in one.items() if "mismatch" not in key} for one in (row, other))
        assert other == pytest.approx(row, abs=1e-5, rel=1e-5)
    assert (results[1] / "samples.jsonl").read_bytes() == (results[2] / "samples.jsonl").read_bytes()
    first, second = (load_file(results[n] / "model" / "model.safetensors") for n in (1, 2))
    for name, weight in first.items():
        torch.testing.assert_close(second[name], weight, atol=1e-5, rtol=0)


def test_processes_that_fail_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(UserError, match=r"label: 2 processes failed with code 1: see .*log.txt"):
        launched.relaunched(place(tmp_path, processes=2))


def test_a_gpu_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="hardware=gpu: no CUDA device is visible"):
        sharding.accelerator(place(tmp_path, kind="gpu").hardware)
