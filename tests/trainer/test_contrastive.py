"""Training a small CLIP: what is true of a picture, the loss against a loop, learning, the gate, the folder."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small import place

from rlfamily.errors import UserError
from rlfamily.models import clip
from rlfamily.records import write_jsonl
from rlfamily.rewards import ContrastiveSource
from rlfamily.rewards.clip import REFERENCES
from rlfamily.trainer import contrastive

COLOURS = {"red": (220, 30, 30), "green": (30, 160, 30), "blue": (30, 30, 220), "black": (0, 0, 0)}


def source(**changes):
    optimizer = {"lr": 1e-2, "beta1": 0.9, "beta2": 0.98, "weight_decay": 0.0, "clip_norm": 1.0, "schedule": "linear",
                 "warmup_steps": 2}
    return ContrastiveSource.model_validate({
        "kind": "contrastive", "seed": 0, "hidden_size": 16, "intermediate_size": 32, "text_layers": 1, "vision_layers": 1,
        "heads": 2, "patch_size": 8, "max_positions": 6, "steps": 60, "batch": 16, "optimizer": optimizer,
        "min_recall": 0.75} | changes)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Pictures of one colour, and the four of them to find again."""
    out = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    names = [list(COLOURS)[index] for index in rng.integers(0, 4, 64)]

    def paint(colours):
        return np.stack([np.clip(np.array(COLOURS[name]) + rng.normal(0, 8, (16, 16, 3)), 0, 255).astype(np.uint8)
                         for name in colours])

    np.savez_compressed(out / contrastive.PICTURES, train=paint(names), held_out=paint(COLOURS))
    np.savez_compressed(out / REFERENCES, red=paint(["red"] * 3))
    rows = [{"split": "train", "captions": [name, f"a {name}", ""], "facts": [name, "a"]} for name in names]
    rows += [{"split": "held_out", "captions": [name], "facts": [name, "a"]} for name in COLOURS]
    write_jsonl(out / contrastive.CAPTIONS, rows)
    return out


def test_a_text_is_true_of_the_pictures_that_have_all_its_words():
    true = contrastive.matches(["red circle", "red", "", "blue"], [["red", "circle"], ["red", "square"]])
    assert true.tolist() == [[1, 0], [1, 1], [1, 1], [0, 0]]


def test_the_loss_is_the_cross_entropy_to_a_uniform_target():
    torch.manual_seed(0)
    logits = torch.randn(2, 3)
    true = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    expected = 0.0
    for row, pictures in ((0, (0, 1)), (1, (2,))):
        total = sum(math.exp(float(value)) for value in logits[row])
        expected -= sum(math.log(math.exp(float(logits[row, i])) / total) for i in pictures) / len(pictures) / 2
    assert float(contrastive.text_loss(logits, true)) == pytest.approx(expected, abs=1e-6)


def test_it_learns_and_leaves_all_that_the_reward_needs(data, tmp_path):
    here = place(tmp_path)
    totals = contrastive.train(here, data, source(min_recall=1.0))  # as much as asked for is enough
    assert totals["recall_images"] == totals["recall_texts"] == 1.0 and totals["held_out"] == 4
    assert (here.out / "model" / REFERENCES).read_bytes() == (data / REFERENCES).read_bytes()
    encoder = clip.load(here.out / "model", torch.device("cpu"))
    assert contrastive.recall(encoder, contrastive.read_pictures(data, "held_out"), 2)["recall_images"] == 1.0


def test_the_same_seed_gives_the_same_weights(data, tmp_path):
    for name in ("a", "b"):
        contrastive.train(place(tmp_path / name), data, source(steps=3, min_recall=0.0))
    first, second = ((tmp_path / name / "out" / "model" / "model.safetensors").read_bytes() for name in ("a", "b"))
    assert first == second


def test_every_picture_is_met_once_an_epoch(data, tmp_path, monkeypatch):
    """Also where the batches fill the epoch exactly; what is left at its end is too little for a batch."""
    pictures = contrastive.read_pictures(data, "train")
    for size, met in ((16, 64), (24, 48)):
        seen, few = [], source(batch=size, steps=2 * (64 // size), min_recall=0.0)
        facts = [[str(row)] for row in range(64)]
        monkeypatch.setattr(contrastive, "matches", lambda texts, facts, seen=seen: seen.extend(facts) or torch.ones(len(texts), len(facts)))
        encoder = clip.build(few, {"a", *COLOURS}, 16, torch.device("cpu"))
        contrastive.fit(place(tmp_path), encoder, replace(pictures, facts=facts), few)
        first, second = ([word for (word,) in seen[part]] for part in (slice(met), slice(met, None)))
        assert len(set(first)) == len(set(second)) == met and first != second


@pytest.mark.parametrize("changes", [{}, {"clip_norm": 1e-3}, {"lr": 0.0}], ids=str)
def test_a_step_takes_its_own_gradient_clipped_at_the_schedules_rate(data, tmp_path, monkeypatch, changes):
    rates, norms, real = [], [], contrastive.build_optimizer

    def watched(parameters, *rest):
        def note(optimizer, *_):
            rates.append(optimizer.param_groups[0]["lr"])
            norms.append(float(torch.stack([one.grad.norm() for one in parameters if one.grad is not None]).norm()))

        optimizer = real(parameters, *rest)
        optimizer.register_step_pre_hook(note)
        return optimizer

    monkeypatch.setattr(contrastive, "build_optimizer", watched)
    pictures = contrastive.read_pictures(data, "train")
    whole = source(batch=64, steps=4, optimizer=source().optimizer.model_dump() | {"clip_norm": 100.0} | changes)
    encoder = clip.build(whole, {"a", *COLOURS}, 16, torch.device("cpu"))
    with torch.no_grad():
        encoder.model.logit_scale.fill_(9.0)
    contrastive.fit(place(tmp_path), encoder, replace(pictures, captions=[one[:1] for one in pictures.captions]), whole)
    assert rates == pytest.approx([factor * whole.optimizer.lr for factor in (0.5, 1.0, 1.0, 0.5)])
    assert max(norms) <= whole.optimizer.clip_norm * 1.001
    assert float(encoder.model.logit_scale.detach()) <= math.log(100) + 1e-4
    if changes == {"lr": 0.0}:  # the same rows and weights again: nothing is left of the gradient before
        assert norms[1:] == pytest.approx([norms[1]] * 3, rel=1e-4)


def test_recall_is_of_pictures_by_their_texts_and_of_texts_by_their_pictures():
    class Embedded:
        def embed_images(self, images, micro_batch):
            return torch.eye(3)

        def embed_texts(self, texts, micro_batch):
            assert texts == ["all 0", "all 1", "all 2"]
            return torch.tensor([[3.0, 0.0, 0.0], [2.0, 1.0, 0.0], [1.0, 0.0, 2.0]])

    pictures = contrastive.Pictures(np.zeros(3), [[f"all {row}", "less"] for row in range(3)], [[]] * 3)
    found = contrastive.recall(Embedded(), pictures, 2)
    assert found == {"recall_images": pytest.approx(1.0), "recall_texts": pytest.approx(2 / 3)}


def test_one_that_finds_too_little_is_refused_in_one_line(data, tmp_path):
    with pytest.raises(UserError, match=r"of 4 held-out pictures find their caption first, less than min_recall=1.0") as error:
        contrastive.train(place(tmp_path), data, source(steps=1, min_recall=1.0))
    assert "\n" not in str(error.value)


def test_the_stage_trains_what_its_config_says(data, tmp_path):
    from rlfamily.stages.kinds import clip as kind

    steps = []
    here = replace(place(tmp_path), progress=lambda step, total, note="": steps.append((step, total)))
    config = kind.Config(source=source(steps=2, min_recall=0.0))
    assert kind.run(here, config, kind.Inputs(data))["parameters"] > 1000
    assert steps == [(1, 2), (2, 2)]
