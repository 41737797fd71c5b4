"""What a loss is given beside log-probs: values of a critic that is trained with the policy, step ends, chance."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest
import torch
from building import ROUNDING, VARIED, settings_of, train, trainer_of, watched
from safetensors.torch import load_file
from small import place

from rlfamily.trainer import checkpoint, jobs, loop
from rlfamily.trainer.record import NOTE_STEPS


def head_of(trainer):
    return {name: value.detach().clone() for name, value in trainer.learner.trainable().items() if "value_head" in name}


@pytest.mark.parametrize("finetune", ["full", "lora"])
def test_the_critic_is_trained_with_the_policy_and_left_out_of_its_folder(world, tmp_path, finetune):
    trainer = trainer_of(tmp_path, world, settings_of("ppo"), "ppo", finetune=finetune)
    batches = watched(trainer)
    before = head_of(trainer)
    assert set(before) == {"value_head.weight", "value_head.bias"}
    assert not any(value.any() for value in before.values())
    list(trainer.steps())
    assert all(value.any() for value in head_of(trainer).values())
    assert all(value.dtype == torch.float32 for value in head_of(trainer).values())
    assert not batches[0].values_NT.any()
    assert batches[-1].values_NT.any()
    assert not batches[-1].values_NT[batches[-1].mask_NT == 0].any()
    trainer.learner.save(tmp_path / "saved")
    assert not [name for name in load_file(tmp_path / "saved" / "model.safetensors") if "value" in name]


def test_the_critics_error_reaches_the_backbone(world, tmp_path):
    """A policy loss without a gradient: what moves the weights is the value loss alone."""
    settings = settings_of("dro_online", kl={"coef": 0.0, "form": "k1", "place": "reward"}, inner_updates=1, vf_coef=1.0)
    trainer = trainer_of(tmp_path, world, settings, "dro_online")
    with torch.no_grad():
        trainer.learner.value_head.weight.fill_(0.1)
    real = trainer.recipe.loss
    trainer.recipe = replace(trainer.recipe, loss=lambda batch: real(
        replace(batch, logp_NT=batch.logp_NT * 0 + batch.logp_NT.detach())))
    weights = {name: value.detach().clone() for name, value in trainer.learner.trainable().items()}
    next(trainer.steps())
    moved = {name for name, value in trainer.learner.trainable().items() if not torch.equal(value, weights[name])}
    assert "value_head.weight" in moved
    assert any("layers.0" in name for name in moved)


def test_the_first_values_stay_while_a_batch_is_reused(world, tmp_path):
    for micro_tokens in (60, 8192):
        trainer = trainer_of(tmp_path, world, settings_of("ppo", inner_updates=3, batch_prompts=4), "ppo", micro_tokens)
        batches, steps = watched(trainer), trainer.steps()
        next(steps)
        next(steps)
        first, second, third = batches[3:]
        torch.testing.assert_close(first.old_values_NT, first.values_NT)
        assert torch.equal(first.old_values_NT, second.old_values_NT)
        assert torch.equal(first.old_values_NT, third.old_values_NT)
        assert (third.values_NT - third.old_values_NT).abs().max() > 1e-4
        assert not third.old_values_NT.requires_grad


def test_step_ends_are_those_of_the_generated_ids(world, tmp_path, monkeypatch):
    seen = []

    def ends(tokenizer, ids):
        seen.append(ids)
        return [1, len(ids)] if len(seen) % 2 else [len(ids)]  # every other row has fewer steps

    monkeypatch.setattr(loop, "step_ends", ends)
    trainer = trainer_of(tmp_path, world, settings_of("oreo_online", level="step", batch_prompts=4), "oreo_online")
    batches = watched(trainer)
    next(trainer.steps())
    lengths = batches[0].mask_NT.sum(1).long().tolist()
    assert [len(ids) for ids in seen] == lengths  # once, however often the batch is reused
    assert batches[0].step_ends_NS.tolist() == [[n, n] if row % 2 else [1, n] for row, n in enumerate(lengths)]
    assert all(batch.step_ends_NS is batches[0].step_ends_NS for batch in batches)


def chance(folder, world, seed, steps):
    """What a loss draws at each update."""
    trainer = trainer_of(folder, world, settings_of("rloo", inner_updates=2, **VARIED), "rloo", seed=seed)
    drawn, real = [], trainer.recipe.loss

    def loss(batch):
        assert batch.generator is not None
        drawn.append(torch.rand(2, generator=batch.generator).tolist())
        return real(batch)

    trainer.recipe = replace(trainer.recipe, loss=loss, needs=trainer.recipe.needs | {"generator"})
    trainer.step = steps
    next(trainer.steps())
    return drawn


def test_chance_is_a_function_of_seed_step_and_update(world, tmp_path):
    first = chance(tmp_path, world, 0, 1)
    assert first == chance(tmp_path, world, 0, 1)
    others = [chance(tmp_path, world, 1, 1), chance(tmp_path, world, 0, 2)]
    drawn = [pair for part in (first, *others) for pair in part]
    assert len({tuple(pair) for pair in drawn}) == 6


def test_fresh_adapters_are_a_function_of_the_seed_whatever_was_drawn_before(world, tmp_path):
    def fresh(seed):
        learner = trainer_of(tmp_path, world, settings_of("sft"), "sft", finetune="lora", seed=seed).learner
        return [weight.detach().clone() for name, weight in learner.trainable().items() if "lora_A" in name]

    first, again, other = fresh(0), fresh(0), fresh(1)
    assert first and all(map(torch.equal, first, again)) and not any(map(torch.equal, first, other))


def test_the_least_length_is_the_samplers_and_the_trainers(world, tmp_path):
    limited = replace(world, config=world.config.model_copy(
        update={"task": world.config.task.model_copy(update={"min_new_tokens": 25})}))
    trainer = trainer_of(tmp_path, limited, settings_of("rloo", batch_prompts=4, inner_updates=2), "rloo")
    record = next(trainer.steps())
    assert record.metrics["mismatch_max"] < ROUNDING
    free = next(trainer_of(tmp_path, world, settings_of("rloo", batch_prompts=4, inner_updates=2), "rloo").steps())
    assert record.metrics["length"] >= 25 > free.metrics["length"]


def test_the_recorded_entropy_is_the_mean_over_the_rows_of_a_plain_forward_pass(world, tmp_path, monkeypatch):
    """In nats a token, of what the tokens were drawn from: the policy that the run starts from, at its temperature."""
    trainer, drawn, before = trainer_of(tmp_path, world, settings_of("ppo", inner_updates=1), "ppo"), [], world.policy()
    before.model.set_attn_implementation("sdpa")
    real = trainer.source.batch
    monkeypatch.setattr(trainer.source, "batch", lambda *given: drawn.append(real(*given)) or drawn[-1])
    record = next(trainer.steps())
    means = []
    for prompt, ids in zip(drawn[0].rows.prompts, drawn[0].rows.completions, strict=True):
        logits_TV = before.model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1:-1]
        logp_TV = (logits_TV / trainer.temperature).log_softmax(-1)
        means.append(float(-(logp_TV.exp() * logp_TV).sum(-1).mean()))
    assert len(means) > 1 and trainer.temperature == 0.7
    assert record.metrics["entropy"] == pytest.approx(sum(means) / len(means), abs=1e-4)


def test_what_was_not_drawn_is_learnt_as_the_model_has_it(world, tmp_path, monkeypatch):
    """At temperature 1, with an end at any place, and, for a model from scratch, at the rate of its settings."""
    limited = replace(world, config=world.config.model_copy(
        update={"task": world.config.task.model_copy(update={"min_new_tokens": 25})}))
    finetuned, caught = trainer_of(tmp_path, limited, settings_of("sft"), "sft"), []
    monkeypatch.setattr(jobs, "fit", lambda here, trainer, config: caught.append(trainer))
    settings = settings_of("sft", prompts=100, optimizer={"lr": 0.5})
    jobs.pretrain(place(tmp_path / "base"), world.data, world.config.model, settings, 64)
    for trainer in (finetuned, *caught):
        assert (trainer.temperature, trainer.min_new_tokens) == (1.0, 0)
    assert caught[0].optimizer.param_groups[0]["lr"] == 0.5


def test_a_checkpoint_holds_every_stream_of_chance(world, tmp_path):
    """A method or reward of one's own may draw from any of them."""
    def drawn():
        return [torch.rand(3).tolist(), random.random(), np.random.rand(3).tolist()]

    trainer = trainer_of(tmp_path, world, settings_of("sft"), "sft")
    checkpoint.save(tmp_path / "c.pt", trainer, {"metrics.jsonl": 7})
    before = drawn()
    assert drawn() != before
    assert checkpoint.restore(checkpoint.read(tmp_path / "c.pt", trainer), trainer) == {"metrics.jsonl": 7}
    assert drawn() == before


def test_the_note_beside_the_progress_is_a_mean_over_the_last_steps(world, tmp_path):
    notes, here = [], place(tmp_path)
    settings = settings_of("rloo", epochs=1, batch_prompts=2, **VARIED)
    train(replace(here, progress=lambda step, total, note="": notes.append(note)), world, settings, "rloo")
    rows = [json.loads(line) for line in (here.out / "metrics.jsonl").read_text().splitlines()]
    assert 2 <= len(rows) == len(notes)
    for step, note in enumerate(notes):
        seen = rows[max(0, step + 1 - NOTE_STEPS):step + 1]
        assert note == "  ".join(f"{short} {fmean(row[name] for row in seen):.3f}" for short, name in (
            ("valid", "mean_valid"), ("reward", "reward"), ("loss", "loss")))
