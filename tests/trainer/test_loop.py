"""What a step computes: only the forwards that are asked for, the right behaviour policy, and the promised numbers."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from building import ROUNDING, SHIPPED, VARIED, settings_of, train, trainer_of, watched
from small import place

from rlfamily import algorithms
from rlfamily.errors import UserError
from rlfamily.models.batching import Rows, pad
from rlfamily.rollout.clock import Clock
from rlfamily.settings import Optimizer
from rlfamily.trainer.optimization import build_optimizer, build_schedule
from rlfamily.trainer.sources import FixedSource

WHOLE = {"mode": "sample", "temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0,
         "no_repeat_ngram": 0}
ALWAYS = {"step", "epoch", "progress", "loss", "grad_norm", "entropy", "length", "rows", "tokens", "lr"}
ROLLOUTS = {"reward", "mean_format", "mean_valid", "truncated"}
GAP = {"mismatch_mean", "mismatch_max", "mismatch_kl"}
REFERENCE = {"kl_ref_k1", "kl_ref_k3"}
CRITIC = {"pg_loss", "clip_fraction", "value_loss", "value_mean"}
OWN = {"sft": set(), "dpo": {"margin", "accuracy"}, "rloo": {"pg_loss", "clip_fraction"},
       "topr": {"pg_loss", "clip_fraction", "weight_mean", "tau"}, "ppo": CRITIC, "dro_online": CRITIC,
       "oreo_online": CRITIC}


def spy(monkeypatch, target, name):
    """Count the calls of a method."""
    calls, real = [], getattr(target, name)

    def counting(*args, **kwargs):
        calls.append(args)
        return real(*args, **kwargs)

    monkeypatch.setattr(target, name, counting)
    return calls


@pytest.mark.parametrize("variant", SHIPPED)
@pytest.mark.parametrize("inner_updates", [1, 2])
def test_only_needed_forwards_are_made(world, folders, tmp_path, monkeypatch, variant, inner_updates):
    name, changes = SHIPPED[variant]
    varied = VARIED if algorithms.get(name).SOURCE == "rollouts" else {}
    settings = settings_of(name, inner_updates=inner_updates, **varied | changes)
    trainer = trainer_of(tmp_path, world, settings, name, **folders[name])
    needs = algorithms.needs(algorithms.get(name), settings)
    steps, batches = trainer.steps(), watched(trainer)
    known = algorithms.get(name).SOURCE == "logged"  # the log comes with the reference's log-probs
    assert (trainer.reference is not None) == (("ref" in needs or settings.kl_ref_every > 0) and not known)
    for step in range(3):
        ours = spy(monkeypatch, trainer.learner, "evaluate")
        theirs = spy(monkeypatch, trainer.reference, "evaluate") if trainer.reference else []
        next(steps)
        assert len(ours) == inner_updates
        measured = settings.kl_ref_every > 0 and step % settings.kl_ref_every == 0
        assert len(theirs) == int(("ref" in needs or measured) and not known)
    for batch in batches:
        assert (batch.old_logp_NT is not None) == ("old" in needs)
        assert (batch.ref_logp_NT is not None) == ("ref" in needs)
        assert (batch.prompt_values_N is not None) == ("prompt_value" in needs)
        assert (batch.values_NT is not None) == (batch.old_values_NT is not None) == ("value" in needs)
        assert (batch.step_ends_NS is not None) == ("steps" in needs)
        assert (batch.generator is not None) == ("generator" in needs)


def one_step(trainer):
    """Metrics of the first step, and the weights after it."""
    metrics = next(trainer.steps()).metrics
    return metrics, [parameter.detach().clone() for parameter in trainer.parameters]


def rows_passed(calls):
    return sum(len(rows) for rows, _ in calls)


@pytest.mark.parametrize("name", ["rloo", "grpo", "gnivo", "topr"])
def test_what_the_sampler_knows_is_not_passed_again(world, tmp_path, monkeypatch, name):
    """In fp32 the torch engine's log-probs serve for the first update: one pass a row, and the update of two passes."""
    settings = settings_of(name, batch_prompts=4, **VARIED)
    for budget in (8192, 120):
        trainer = trainer_of(tmp_path / f"{budget}", world, settings, name, budget)
        calls = spy(monkeypatch, trainer.learner, "evaluate")
        trusting, weights = one_step(trainer)
        rows = trusting["rows"]
        assert rows_passed(calls) == rows
        assert (len(calls) > 1) == (budget == 120)
        other = trainer_of(tmp_path / f"{budget} anew", world, settings, name, budget)
        other.rollout = None
        calls = spy(monkeypatch, other.learner, "evaluate")
        exact, expected = one_step(other)
        assert rows_passed(calls) == (rows if budget == 8192 else 2 * rows)
        assert trusting == pytest.approx({**exact, **{key: trusting[key] for key in trusting if "mismatch" in key}},
                                         rel=1e-4, abs=1e-5)
        for ours, theirs in zip(weights, expected, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
        assert 0 < trusting["mismatch_max"] < ROUNDING  # measured on the pass, not assumed


@pytest.mark.parametrize("change", ["bf16", "values", "cap", "replayed", "vllm"])
def test_where_the_sampler_may_be_wrong_the_first_pass_tells(world, tmp_path, monkeypatch, change):
    name = "ppo" if change == "values" else "rloo"
    changes = {"epochs": 2, "resample_each_epoch": False} if change == "replayed" else {}
    trainer = trainer_of(tmp_path, world, settings_of(name, inner_updates=1, batch_prompts=4, **VARIED, **changes), name, 60,
                         **{"importance_cap": 2.0} if change == "cap" else {})
    if change == "bf16":
        trainer.learner.dtype = "bf16"
    if change == "vllm":
        trainer.rollout = trainer.rollout.model_copy(update={"engine": "vllm"})
    steps = trainer.steps()
    for _ in range(trainer.source.steps_per_epoch if change == "replayed" else 0):
        next(steps)
    calls = spy(monkeypatch, trainer.learner, "evaluate")
    assert rows_passed(calls) == 0
    rows = next(steps).metrics["rows"]
    assert rows_passed(calls) == 2 * rows


def test_rows_without_a_gradient_are_not_passed(world, tmp_path, monkeypatch):
    """Groups of equal rewards teach nothing; left out, they change nothing of what the others teach."""
    trainer = trainer_of(tmp_path, world, settings_of("rloo", batch_prompts=4), "rloo")
    batch = trainer.source.batch(0, Clock())
    size = batch.group_size
    rewards = [float(row % size == 0) if row // size in (1, 3) else 0.5 for row in range(len(batch.rows))]
    trainer.source.batch = lambda step, clock: replace(batch, rewards=rewards)
    calls = spy(monkeypatch, trainer.learner, "evaluate")
    metrics, weights = one_step(trainer)
    ((rows, _),) = calls
    assert len(rows) == 2 * size
    expected = [list(ids) for row, ids in enumerate(batch.rows.completions) if row // size in (1, 3)]
    assert [ids[:len(one)] for ids, one in zip(rows.ids_NT.tolist(), expected, strict=True)] == expected
    other = trainer_of(tmp_path / "all", world, settings_of("rloo", batch_prompts=4), "rloo")
    other.source.batch = lambda step, clock: replace(batch, rewards=rewards)
    other.rollout = None  # one pass over all rows
    whole, all_weights = one_step(other)
    assert metrics["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-5)
    assert 0 < metrics["mismatch_mean"] < ROUNDING  # of the rows that were passed: nothing is known of the others
    for ours, theirs in zip(weights, all_weights, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    still = trainer_of(tmp_path / "still", world, settings_of("rloo", batch_prompts=4), "rloo")
    still.source.batch = lambda step, clock: replace(batch, rewards=[0.5] * len(batch.rows))
    calls = spy(monkeypatch, still.learner, "evaluate")
    metrics, _ = one_step(still)
    assert metrics["grad_norm"] == 0 and "mismatch_mean" not in metrics and not calls


@pytest.mark.parametrize("micro_tokens", [60, 8192])
@pytest.mark.parametrize("variant", [name for name, (algorithm, _) in SHIPPED.items()
                                     if algorithms.get(algorithm).SOURCE == "rollouts"])
def test_the_behaviour_policy_is_the_one_of_the_first_forward(world, folders, tmp_path, variant, micro_tokens):
    name, changes = SHIPPED[variant]
    settings = settings_of(name, inner_updates=2, batch_prompts=4, **VARIED, **changes)
    trainer = trainer_of(tmp_path, world, settings, name, micro_tokens, **folders[name])
    batches = watched(trainer)
    next(trainer.steps())
    first, second = batches
    if first.old_logp_NT is None:
        return
    assert not (first.logp_NT - first.old_logp_NT).any()
    assert torch.equal(first.old_logp_NT, second.old_logp_NT)
    assert (second.logp_NT - second.old_logp_NT).abs().max() > 1e-4
    assert not first.old_logp_NT.requires_grad


def test_the_reference_is_the_initial_policy_for_good(world, tmp_path):
    for finetune in ("full", "lora"):
        trainer = trainer_of(tmp_path, world, settings_of("rloo", kl_ref_every=1), "rloo", finetune=finetune)
        records = list(trainer.steps())
        assert abs(records[0].metrics["kl_ref_k1"]) < 1e-7
        assert records[-1].metrics["kl_ref_k3"] > 1e-3
        padded = pad(Rows([[5, 6, 7]], [[8, 9]]), 0)
        with torch.no_grad(), trainer.reference.initial() if finetune == "lora" else torch.no_grad():
            now = trainer.reference.evaluate(padded, 1.0).logp_NT
            assert torch.equal(now, world.policy().evaluate(padded, 1.0).logp_NT)


def test_only_adapters_move(world, tmp_path):
    trainer = trainer_of(tmp_path, world, settings_of("topr", **VARIED), "topr", finetune="lora")
    before = {name: value.clone() for name, value in trainer.learner.model.state_dict().items()}
    list(trainer.steps())
    after = trainer.learner.model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all("lora_" in name for name in moved)


# ---------------------------------------------------------------------------- logged responses


@pytest.mark.parametrize("name", ["topr", "rloo"])
def test_later_epochs_reuse_the_logged_responses(world, tmp_path, monkeypatch, name):
    trainer = trainer_of(tmp_path, world, settings_of(name, epochs=2, resample_each_epoch=False, batch_prompts=2, **VARIED), name)
    draws = spy(monkeypatch, trainer.source, "collect")
    batches, records = watched(trainer), list(trainer.steps())
    first, second = batches[:trainer.source.steps_per_epoch], batches[trainer.source.steps_per_epoch:]
    assert len(draws) == len(first) == len(second)
    assert list(trainer.source.log) == list(range(len(first)))  # what is replayed is not logged again

    def content(batch):
        return sorted(map(tuple, batch.rewards_N.view(-1, batch.group_size).tolist()))

    assert sorted(map(content, first)) == sorted(map(content, second))
    samples = [[record.samples[0] | {"step": 0} for record in records[part]] for part in (slice(None, len(first)),
                                                                                      slice(len(first), None))]
    assert samples[0] != samples[1]  # another order
    assert sorted(map(str, samples[0])) == sorted(map(str, samples[1]))
    if name == "topr":
        logged = [batch.old_logp_NT for batch in first]
        for batch, record in zip(second, records[len(first):], strict=True):
            assert any(torch.equal(batch.old_logp_NT, old_NT) for old_NT in logged)
            assert (batch.logp_NT - batch.old_logp_NT).abs().max() > 1e-3
            assert record.metrics["kl_old"] != 0
        assert all(record.metrics["kl_old"] == 0 for record in records[:len(first)])
        assert any(record.metrics["weight_mean"] != pytest.approx(1, abs=1e-3) for record in records[len(first):])
        assert all(record.metrics["weight_mean"] == pytest.approx(1, abs=1e-6) for record in records[:len(first)])


def test_or_draw_anew(world, tmp_path, monkeypatch):
    trainer = trainer_of(tmp_path, world, settings_of("topr", epochs=2, resample_each_epoch=True), "topr")
    draws = spy(monkeypatch, trainer.source, "collect")
    records = list(trainer.steps())
    assert [epoch for _, epoch, _ in draws] == [0] * 5 + [1] * 5
    assert all(record.metrics["kl_old"] == 0 for record in records)
    assert not trainer.source.log
    texts = [{sample["prompt"]: sample["response"] for record in part for sample in record.samples}
             for part in (records[:5], records[5:])]
    shared = set(texts[0]) & set(texts[1])
    assert shared
    assert any(texts[0][prompt] != texts[1][prompt] for prompt in shared)


def test_every_seed_epoch_prompt_and_draw_has_a_stream_of_its_own(world, tmp_path):
    def draw(seed, epoch):
        source = trainer_of(tmp_path, world, settings_of("rloo"), "rloo", seed=seed).source
        examples = sorted(source.examples, key=lambda example: example.id)[:1] * 2
        return [group.texts for group in source.collect(examples, epoch, Clock())]

    first = draw(0, 0)
    assert first[0] == first[1]  # the same prompt
    assert len(set(first[0])) == 4  # four draws
    assert draw(0, 0) == first
    assert draw(0, 1)[0] != first[0]
    assert draw(1, 0)[0] != first[0]


def test_sampler_and_trainer_meet_at_any_temperature(world, tmp_path):
    for mode, temperature in (("sample", 0.7), ("greedy", 0.7), ("sample", 1.0)):
        settings = settings_of("topr", sampling=WHOLE | {"mode": mode, "temperature": temperature}, baseline="none",
                               inner_updates=2)
        record = next(trainer_of(tmp_path, world, settings, "topr").steps())
        assert 0 < record.metrics["mismatch_max"] < ROUNDING


@pytest.mark.parametrize("cut", [{"top_k": 2}, {"top_p": 0.7}], ids=str)
def test_a_loss_sees_the_whole_distribution_whatever_rows_are_drawn_from(world, tmp_path, cut):
    settings = settings_of("topr", sampling=WHOLE | cut, baseline="none", inner_updates=1)
    trainer, drawn = trainer_of(tmp_path, world, settings, "topr"), []
    batches, source = watched(trainer), trainer.source.batch
    trainer.source.batch = lambda step, clock: drawn.append(source(step, clock)) or drawn[-1]
    metrics = next(trainer.steps()).metrics
    with torch.no_grad():
        logp_NT = world.policy().evaluate(pad(drawn[0].rows, trainer.learner.pad_id), 1.0).logp_NT
    torch.testing.assert_close(batches[0].logp_NT, logp_NT, atol=ROUNDING, rtol=0)
    torch.testing.assert_close(batches[0].old_logp_NT, logp_NT, atol=ROUNDING, rtol=0)
    gaps = [theirs - ours for row, whole in zip(drawn[0].sampler_logp, logp_NT.tolist(), strict=True)
            for theirs, ours in zip(row, whole, strict=False)]
    assert min(gaps) > -ROUNDING and max(gaps) > 0.1  # likelier where the rest is left out
    assert metrics["mismatch_max"] == pytest.approx(max(gaps), abs=ROUNDING)


def test_the_running_reward_is_that_of_the_past(world, tmp_path):
    trainer = trainer_of(tmp_path, world, settings_of("topr", baseline="running_mean"), "topr")
    batches, records = watched(trainer), list(trainer.steps())
    rewards = [record.metrics["reward"] for record in records]
    assert [batch.running_reward for batch in batches] == pytest.approx(
        [sum(rewards[:step]) / max(1, step) for step in range(len(rewards))])
    assert [batch.progress for batch in batches] == pytest.approx([step / len(rewards) for step in range(len(rewards))])


# ---------------------------------------------------------------------------- records


def expected_metrics(settings, name, step):
    source = algorithms.get(name).SOURCE
    needs = algorithms.needs(algorithms.get(name), settings)
    fields = set(ALWAYS)
    if source == "rollouts":
        fields |= ROLLOUTS | GAP
    if "old" in needs:
        fields |= {"kl_old"}
    if "ref" in needs or (settings.kl_ref_every and step % settings.kl_ref_every == 0):
        fields |= REFERENCE
    return fields | OWN.get(name, set())


@pytest.mark.parametrize("name", algorithms.names())
def test_a_run_records_what_it_promises(world, folders, tmp_path, name):
    settings = settings_of(name, epochs=1, kl_ref_every=0 if name == "sft" else 2)
    here = place(tmp_path)
    totals = train(here, world, settings, name, **folders[name])
    rows = {file: [json.loads(line) for line in (here.out / f"{file}.jsonl").read_text().splitlines()]
            for file in ("metrics", "timings", "samples")}
    assert [row["step"] for row in rows["metrics"]] == list(range(totals["steps"]))
    for row in rows["metrics"]:
        known = expected_metrics(settings, name, row["step"]) - (set() if row["grad_norm"] else GAP)
        assert known <= set(row)
        if name in OWN:
            assert set(row) == known
        assert all(isinstance(value, int | float) for value in row.values())
    scored = {"seconds_reward"} if algorithms.get(name).SOURCE == "rollouts" else set()
    for row in rows["timings"]:
        assert set(row) == {"step", "seconds_generate", "seconds_forward", "seconds_update", "seconds", "cpu_seconds",
                            "forwards"} | scored
        assert row["seconds"] >= row["seconds_forward"] + row["seconds_update"]
    assert sum(row["forwards"] for row in rows["timings"]) > 0  # none where drawn rows move nothing
    assert totals["tokens"] == sum(row["tokens"] for row in rows["metrics"])
    assert totals["processes"] == 1
    assert all(f"seconds_{phase}" in totals for phase in ("generate", "forward", "update"))
    if algorithms.get(name).SOURCE == "rollouts":
        assert all(set(row) == {"step", "prompt", "response", "reward", "valid", "format"} for row in rows["samples"])
        assert len(rows["samples"]) == totals["steps"] * settings.group_size
        for row in rows["metrics"]:
            assert row["reward"] == pytest.approx(2 * (row["mean_format"] + row["mean_valid"]) - 2)
    assert (here.out / "model" / "model.safetensors").exists()


def test_the_norm_is_taken_before_clipping(world, tmp_path):
    norms = [next(trainer_of(tmp_path, world, settings_of("rloo", optimizer={"clip_norm": clip}), "rloo").steps())
             .metrics["grad_norm"] for clip in (1e-3, 1e3)]
    assert norms[0] == pytest.approx(norms[1])
    assert norms[0] > 1e-3


def test_a_gradient_that_is_no_number_stops_the_run(world, tmp_path):
    trainer = trainer_of(tmp_path, world, settings_of("sft"), "sft")
    with torch.no_grad():
        trainer.parameters[0].fill_(float("nan"))
    with pytest.raises(RuntimeError, match="non-finite"):
        next(trainer.steps())


@pytest.mark.parametrize(("schedule", "inner", "expected"), [
    ("constant", 1, [0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1]), ("linear", 1, [0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
    ("linear", 2, [0.5, 1, *((20 - update) / 18 for update in range(2, 20))])])
def test_the_recorded_rate_is_the_one_used(world, tmp_path, schedule, inner, expected):
    settings = settings_of("sft", epochs=2, inner_updates=inner, optimizer={"schedule": schedule, "warmup_steps": 2})
    trainer = trainer_of(tmp_path, world, settings, "sft")
    used = []
    trainer.optimizer.register_step_pre_hook(lambda optimizer, *_: used.append(optimizer.param_groups[0]["lr"]))
    recorded = [record.metrics["lr"] for record in trainer.steps()]
    assert used == pytest.approx([1e-3 * factor for factor in expected])
    assert recorded == used[::inner]


def test_every_optimiser_setting_arrives():
    weight = torch.nn.Parameter(torch.ones(1))
    config = Optimizer(lr=0.5, beta1=0.7, beta2=0.8, weight_decay=0.3, clip_norm=1.0, schedule="constant", warmup_steps=0)
    optimizer = build_optimizer([weight], config, 2.0)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (1.0, (0.7, 0.8), 0.3)
    assert build_schedule(optimizer, config, 5).get_last_lr() == [1.0]


@pytest.mark.parametrize(("warmup", "expected"), [(3, [1 / 3, 2 / 3, 1, 0]), (2, [1 / 2, 1, 1, 0]), (9, [1 / 9, 2 / 9, 3 / 9, 4 / 9])])
def test_a_run_may_be_all_warm_up(warmup, expected):
    config = Optimizer(lr=1.0, beta1=0.7, beta2=0.8, weight_decay=0.3, clip_norm=1.0, schedule="linear", warmup_steps=warmup)
    optimizer = build_optimizer([torch.nn.Parameter(torch.ones(1))], config, 1.0)
    schedule, rates = build_schedule(optimizer, config, 3), []
    for _ in range(4):
        rates += schedule.get_last_lr()
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx(expected)


# ---------------------------------------------------------------------------- data


def test_a_method_takes_the_number_of_rows_it_states(world, tmp_path):
    trainer = trainer_of(tmp_path, world, settings_of("sft"), "sft")  # 1000 prompts times 0.02
    assert len(trainer.source.groups) == 20
    assert len(trainer_of(tmp_path, world, settings_of("topr"), "topr").source.examples) == 10
    for name, split in (("sft", "demonstrations_train has 24"), ("rloo", "train split has 64")):
        with pytest.raises(UserError, match=f"data: .*{split}"):
            trainer_of(tmp_path, world, settings_of(name, prompts=4000), name)


def test_an_epoch_shows_each_row_once_in_its_own_order(world, tmp_path):
    source = trainer_of(tmp_path, world, settings_of("sft", batch_prompts=3, epochs=2), "sft").source
    epochs = [[tuple(row) for step in range(7) for row in source.batch(step + 7 * epoch, Clock()).rows.completions]
              for epoch in (0, 1)]
    assert source.total_steps == 14
    assert epochs[0] != epochs[1]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(tuple(group.completions[0]) for group in source.groups)


def test_every_end_of_a_model_ends_a_row():
    groups = [Rows([[1]], [ids]) for ids in ([5, 2], [5, 3], [5, 4], [])]
    batch = FixedSource(groups, 4, 1, 0, (2, 3)).batch(0, Clock())
    assert sorted(zip(map(tuple, batch.rows.completions), batch.truncated, strict=True)) == [
        ((), True), ((5, 2), False), ((5, 3), False), ((5, 4), True)]


def test_cut_demonstrations_count_as_truncated(world, tmp_path):
    settings = settings_of("sft", batch_prompts=20, mask_truncated=True)

    def cut_at(limit):
        task = world.config.task.model_copy(update={"max_tokens_demonstration": limit})
        return trainer_of(tmp_path, replace(world, config=world.config.model_copy(update={"task": task})), settings, "sft")

    groups = cut_at(48).source.groups
    lengths = sorted(len(group.prompts[0]) + len(group.completions[0]) for group in groups)
    trainer = cut_at(lengths[10])
    batches = watched(trainer)
    next(trainer.steps())
    masked = int((batches[0].mask_NT.sum(1) == 0).sum())
    assert masked == sum(length > lengths[10] for length in lengths) > 0
    with pytest.raises(UserError, match="no prompt of 20 demonstrations is shorter than 8 tokens"):
        cut_at(8)
