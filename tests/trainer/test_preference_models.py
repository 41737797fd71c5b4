"""A stand-in's reward models: trained from scratch on its preferences, centred on its corpus, refused when poor."""

from __future__ import annotations

import json
import random
import shutil
from itertools import islice
from statistics import fmean
from typing import Any

import pytest
import torch
from small import place

from rlfamily.errors import UserError
from rlfamily.models import ScratchShape, reward_model, scratch
from rlfamily.records import read_jsonl, write_jsonl
from rlfamily.rewards import PartlyTrainedSource, TrainedSource
from rlfamily.stages.kinds import preference_model
from rlfamily.trainer import preference

CPU = torch.device("cpu")
SHAPE = {"architecture": "qwen2", "hidden_size": 16, "intermediate_size": 16, "layers": 1, "heads": 2, "kv_heads": 1,
         "max_positions": 32, "initializer_range": 0.2, "seed": 3}
OPTIMIZER = {"lr": 1e-2, "beta1": 0.9, "beta2": 0.98, "weight_decay": 0.0, "clip_norm": 1.0, "schedule": "linear",
             "warmup_steps": 0}


LIMIT = 8


def source(**changes: Any) -> TrainedSource:
    return TrainedSource.model_validate({
        "kind": "trained", "preferences": "kind", "shape": SHAPE, "min_accuracy": 0.9,
        "training": {"batch_pairs": 16, "epochs": 1, "optimizer": OPTIMIZER}} | changes)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Labellers like "good" and dislike "bad"; every other word is noise."""
    folder, rng = tmp_path_factory.mktemp("preferences"), random.Random(0)
    words = [f"n{index}" for index in range(10)]

    def text(word: str) -> str:
        picked = [*rng.choices(words, k=2), word]
        rng.shuffle(picked)
        return " ".join(picked)

    write_jsonl(folder / "preferences_kind.jsonl", ({
        "prompt": f"ask {rng.choice(words)} ?", "chosen": text("good"), "rejected": text("bad")} for _ in range(700)))
    write_jsonl(folder / "corpus.jsonl", ({
        "id": f"corpus-{place}", "prompt": "ask n1 ?", "completion": text(rng.choice(["good", "bad"]))}
        for place in range(600)))
    (folder / "vocabulary.json").write_text(json.dumps([*words, "ask", "?", "good", "bad"]))
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    here = place(tmp_path_factory.mktemp("trained"))
    return here, preference.train_from_scratch(here, data, source(), LIMIT)


def test_it_learns_what_the_labellers_like(trained):
    here, totals = trained
    assert totals["held_out_pairs"] == 70 and totals["held_out_accuracy"] >= 0.9
    model = reward_model.load_trained(here.out / "model", CPU)
    good, bad = model.score_texts(["ask n1 ?"] * 2, ["n2 good n3", "n2 bad n3"], 8)
    assert good > 0 > bad


def test_its_zero_is_the_mean_of_the_corpus(trained, data):
    model = reward_model.load_trained(trained[0].out / "model", CPU)
    rows = list(islice(read_jsonl(data / "corpus.jsonl"), preference.REFERENCES))
    scores = model.score_texts([row["prompt"] for row in rows], [row["completion"] for row in rows], 64)
    assert abs(fmean(scores)) < 1e-4 < abs(model.bias)


def test_the_same_seed_gives_the_same_weights(trained, data, tmp_path):
    def weights(folder):
        return (folder / "model" / "model.safetensors").read_bytes()

    again, other = place(tmp_path / "again"), place(tmp_path / "other")
    preference.train_from_scratch(again, data, source(), LIMIT)
    preference.train_from_scratch(other, data, source(shape=SHAPE | {"seed": 4}), LIMIT)
    assert weights(again.out) == weights(trained[0].out) != weights(other.out)


def test_a_poor_model_is_refused_in_one_line(data, tmp_path):
    lazy = {"batch_pairs": 16, "epochs": 1, "optimizer": OPTIMIZER | {"lr": 0.0}}
    with pytest.raises(UserError, match=r"reward model 'kind': orders 0\.\d+ of 70 held-out pairs .* min_accuracy=0.9") as error:
        preference.train_from_scratch(place(tmp_path), data, source(training=lazy), LIMIT)
    assert "\n" not in str(error.value)


def test_no_pair_is_both_trained_on_and_tested_with(data, tmp_path, monkeypatch):
    trained, tested = [], []
    source_of, scores = preference.FixedSource, preference._scores
    monkeypatch.setattr(preference, "FixedSource", lambda pairs, *rest: trained.extend(pairs) or source_of(pairs, *rest))
    monkeypatch.setattr(preference, "_scores", lambda model, rows, *rest: tested.append(rows) or scores(model, rows, *rest))
    preference.train_from_scratch(place(tmp_path), data, source(), LIMIT)
    held_out = tested[-1]
    assert (len(trained), len(held_out)) == (630, 70)
    assert not {id(pair) for pair in trained} & {id(pair) for pair in held_out}


def test_a_model_that_tells_no_pair_apart_orders_none(data, tmp_path, monkeypatch):
    monkeypatch.setattr(preference, "_scores", lambda model, rows, micro_batch: [0.5] * (2 * len(rows)))
    with pytest.raises(UserError, match=r"orders 0\.000 of 70 held-out pairs"):
        preference.train_from_scratch(place(tmp_path), data, source(), LIMIT)


def test_it_learns_at_the_rate_of_its_settings_and_an_accuracy_as_asked_for_is_enough(data, tmp_path, monkeypatch):
    trainers = []
    monkeypatch.setattr(preference, "fit", lambda here, trainer, config: trainers.append(trainer) or {})
    monkeypatch.setattr(preference, "_scores", lambda model, rows, micro_batch: [1.0, 0.0] * len(rows))
    totals = preference.train_from_scratch(place(tmp_path), data, source(min_accuracy=1.0), LIMIT)
    assert totals["held_out_accuracy"] == 1.0
    (trainer,) = trainers
    assert trainer.optimizer.param_groups[0]["initial_lr"] == OPTIMIZER["lr"]


def test_with_too_few_pairs_to_hold_any_out_it_is_refused(data, tmp_path):
    folder = tmp_path / "few"
    shutil.copytree(data, folder)
    write_jsonl(folder / "preferences_kind.jsonl", islice(read_jsonl(data / "preferences_kind.jsonl"), 9))
    with pytest.raises(UserError, match=r"orders 0\.000 of 0 held-out pairs"):
        preference.train_from_scratch(place(tmp_path), folder, source(), LIMIT)


def test_unknown_preferences_are_refused(data, tmp_path):
    with pytest.raises(UserError, match="the task's data has no preferences 'kin', only kind"):
        preference.train_from_scratch(place(tmp_path), data, source(preferences="kin"), LIMIT)


def test_cuts_keep_what_tells_a_pair_apart(data, tmp_path):
    """The prompt gives way; pairs that no longer differ are left out, and both are counted."""
    folder = tmp_path / "cut"
    shutil.copytree(data, folder)
    rows = list(read_jsonl(folder / "preferences_kind.jsonl"))
    long = [{**row, "chosen": "n1 " * 9 + row["chosen"], "rejected": "n1 " * 9 + row["rejected"]} for row in rows[:20]]
    same = [{**row, "rejected": row["chosen"]} for row in rows[:3]]
    late = [{**row, "chosen": "good " + "n1 " * 9, "rejected": "bad " + "n1 " * 9} for row in rows[:4]]
    write_jsonl(folder / "preferences_kind.jsonl", [*long, *rows[20:], *same, *late])
    totals = preference.train_from_scratch(place(tmp_path / "one"), folder, source(), LIMIT)
    assert totals["cut_pairs"] == 20 and totals["equal_pairs"] == 7 and totals["held_out_pairs"] == 70
    write_jsonl(folder / "preferences_kind.jsonl", late)
    with pytest.raises(UserError, match="of 4 pairs none differs within 8 tokens: raise task.max_tokens_demonstration"):
        preference.train_from_scratch(place(tmp_path / "two"), folder, source(), LIMIT)


def test_the_stage_hands_its_folders_on(data, tmp_path, monkeypatch):
    here = place(tmp_path)
    seen = {}
    monkeypatch.setattr(preference, "train_from_scratch",
                        lambda *arguments: seen.update(arguments=arguments) or {"held_out_accuracy": 1.0})

    config = preference_model.Config(source=source(), max_tokens=LIMIT)
    assert preference_model.run(here, config, preference_model.Inputs(data)) == {"held_out_accuracy": 1.0}
    assert seen["arguments"] == (here, data, config.source, LIMIT)


def test_a_fresh_model_keeps_the_backbone_and_draws_a_head():
    tokenizer = scratch.train_tokenizer(["a", "b"])
    backbone = scratch.build_model(ScratchShape.model_validate(SHAPE), tokenizer)
    fresh = reward_model.start(backbone, tokenizer, CPU)
    own, theirs = fresh.model.base_model.state_dict(), backbone.base_model.state_dict()
    assert own.keys() == theirs.keys() and all(torch.equal(own[name], theirs[name]) for name in own)
    assert fresh.model.score.weight.shape == (1, 16) and float(fresh.model.score.weight.detach().abs().sum()) > 0
    assert all(parameter.requires_grad for parameter in fresh.model.parameters()) and not fresh.model.training


def test_a_model_may_read_the_first_pairs_alone(data, tmp_path, monkeypatch):
    rows = list(read_jsonl(data / "preferences_kind.jsonl"))
    (tmp_path / "data").mkdir()
    for name in ("corpus.jsonl", "vocabulary.json"):
        shutil.copy(data / name, tmp_path / "data" / name)
    write_jsonl(tmp_path / "data" / "preferences_kind.jsonl", rows[:200])
    part = PartlyTrainedSource.model_validate(
        source(min_accuracy=0.0).model_dump() | {"kind": "trained_partly", "pairs": 200})
    few = preference.train_from_scratch(place(tmp_path / "few"), data, part, LIMIT)
    same = preference.train_from_scratch(place(tmp_path / "same"), tmp_path / "data", source(min_accuracy=0.0), LIMIT)
    assert few["held_out_pairs"] == same["held_out_pairs"] == 20
    assert ((tmp_path / "few" / "out" / "model" / "model.safetensors").read_bytes()
            == (tmp_path / "same" / "out" / "model" / "model.safetensors").read_bytes())
