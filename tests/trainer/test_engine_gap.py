"""The gap between engine and trainer in a run: recorded, summed up, and corrected for where that is asked."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from building import ROUNDING, VARIED, settings_of, train, trainer_of
from small import place

from rlfamily.trainer.metrics import largest_mismatch


def shifted(trainer, by):
    """The trainer, fed by another engine, whose log-probs are `by` nats below what they are."""
    real = trainer.source.batch
    trainer.rollout = trainer.rollout.model_copy(update={"engine": "vllm"})

    def batch(step, clock):
        drawn = real(step, clock)
        return replace(drawn, sampler_logp=[[logp - by for logp in row] for row in drawn.sampler_logp])

    trainer.source.batch = batch
    return trainer


def stepped(folder, world, name="rloo", by=0.0, micro_tokens=8192, changes=VARIED, **rollout):
    """Metrics of the first step, and the weights after it."""
    settings = settings_of(name, optimizer={"clip_norm": 1e9}, **changes)
    trainer = shifted(trainer_of(folder, world, settings, name, micro_tokens, **rollout), by)
    metrics = next(trainer.steps()).metrics
    return metrics, [parameter.detach().clone() for parameter in trainer.parameters]


def test_a_gap_is_recorded(world, tmp_path):
    metrics, _ = stepped(tmp_path, world, by=0.5)
    assert metrics["mismatch_mean"] == pytest.approx(0.5, abs=ROUNDING)
    assert metrics["mismatch_max"] == pytest.approx(0.5, abs=ROUNDING)
    assert metrics["mismatch_kl"] == pytest.approx(math.exp(0.5) - 1.5, abs=ROUNDING)
    assert not any(name.startswith("importance") for name in metrics)


def test_without_a_cap_the_gap_changes_no_bit(world, tmp_path):
    _, weights = stepped(tmp_path, world)
    _, far = stepped(tmp_path, world, by=3.0)
    _, capped = stepped(tmp_path, world, by=3.0, importance_cap=5.0)
    assert all(torch.equal(one, other) for one, other in zip(weights, far, strict=True))
    assert not all(torch.equal(one, other) for one, other in zip(weights, capped, strict=True))


@pytest.mark.parametrize(("by", "weight", "truncated"), [(math.log(1.5), 1.5, 0), (math.log(4), 2, 1), (-math.log(2), 0.5, 0)])
@pytest.mark.parametrize(("name", "micro_tokens"), [("rloo", 8192), ("rloo", 80), ("topr", 8192)])
def test_weights_multiply_the_gradient_of_any_method(world, tmp_path, name, micro_tokens, by, weight, truncated):
    plain, _ = stepped(tmp_path, world, name, by, micro_tokens)
    metrics, _ = stepped(tmp_path, world, name, by, micro_tokens, importance_cap=2.0)
    assert metrics["grad_norm"] == pytest.approx(weight * plain["grad_norm"], rel=1e-3)
    assert metrics["importance_mean"] == pytest.approx(weight, rel=1e-3)
    assert metrics["importance_truncated"] == truncated
    assert metrics["loss"] == plain["loss"]


def test_a_critic_learns_at_its_own_rate(world, tmp_path):
    """A weight of nearly nothing silences the policy, not the values."""
    (silenced, _), (plain, _) = (stepped(tmp_path, world, name, 20.0 * sign, importance_cap=1.0)
                                 for name, sign in (("ppo", -1), ("ppo", 1)))
    assert silenced["importance_mean"] < 1e-6
    assert 0.01 * plain["grad_norm"] < silenced["grad_norm"] < plain["grad_norm"]
    assert stepped(tmp_path, world, "rloo", -20.0, importance_cap=1.0)[0]["grad_norm"] < 1e-6


def test_replayed_epochs_keep_the_pair_that_was_logged(world, tmp_path):
    settings = settings_of("topr", epochs=2, resample_each_epoch=False, batch_prompts=2, **VARIED)
    trainer = trainer_of(tmp_path, world, settings, "topr", importance_cap=1.5)
    records = [record.metrics for record in trainer.steps()]
    first, second = records[:len(records) // 2], records[len(records) // 2:]
    for name in ("mismatch_kl", "mismatch_max", "importance_mean"):
        assert sorted(row[name] for row in first) == sorted(row[name] for row in second)


def test_totals_name_the_largest(world, tmp_path):
    here = place(tmp_path)
    totals = train(here, world, settings_of("rloo", epochs=1), "rloo")["mismatch"]
    rows = [json.loads(line) for line in (here.out / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) > 1
    assert totals == {"kl": max(row["mismatch_kl"] for row in rows),
                      "step": max(rows, key=lambda row: row["mismatch_kl"])["step"]}
    assert "mismatch" not in train(place(tmp_path / "sft"), world, settings_of("sft"), "sft")


@pytest.mark.parametrize(("values", "kl", "step"), [
    ([0.1, 0.3, 0.2], 0.3, 1), ([0.25, 0.1], 0.25, 0), ([0.3, math.nan, 0.4], None, 1), ([0.3, math.inf], None, 1)])
def test_largest_mismatch_by_hand(values, kl, step):
    rows = [{"step": step, "mismatch_kl": value} for step, value in enumerate(values)]
    assert largest_mismatch(rows) == {"mismatch": {"kl": kl, "step": step}}
    assert largest_mismatch([{"step": 0}]) == {}
