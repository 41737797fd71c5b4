"""However a batch is cut, padded or ordered, it is the same update: one family over every algorithm there is."""

from __future__ import annotations

import functools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from building import VARIANTS, settings_of, trainer_of

from rlfamily import algorithms
from rlfamily.examples import read_examples
from rlfamily.models.batching import Rows, RowTensors, pad
from rlfamily.rollout import SamplingParams
from rlfamily.rollout.torch_engine import TorchEngine
from rlfamily.trainer import loop
from rlfamily.trainer.sources import TrainBatch

GROUPS = 3


class OneBatch:
    """A source of one step."""

    steps_per_epoch = total_steps = 1

    def __init__(self, batch):
        self.given = batch

    def batch(self, step, clock):
        return self.given

    def log_behaviour(self, step, batch, logp_NT):
        pass


@pytest.fixture(scope="module")
def drawn(world):
    """Group size to a batch, see `drawn_from`."""
    return drawn_from(world)


def drawn_from(world):
    """Group size to a batch of the base model's own responses, with made-up rewards and one truncated row."""
    policy, known = world.policy(), {}
    engine = TorchEngine(policy, 100)

    def draw(group_size):
        if group_size not in known:
            texts = [example.prompt for example in read_examples(world.data / "test.jsonl")[:GROUPS]]
            ids = [policy.tokenizer(text)["input_ids"][place:] for place, text in enumerate(texts)]
            prompts = [row for row in ids for _ in range(group_size)]
            rows = engine.generate(prompts, SamplingParams(False, 1.0, 30), list(range(len(prompts))))
            known[group_size] = TrainBatch(
                Rows(prompts, [row.ids for row in rows]), group_size,
                rewards=[(-2.0, 2.0, 0.0, 2.0, 0.0)[n % 5] for n in range(len(rows))], parts=[{}] * len(rows),
                truncated=[n == 1 for n in range(len(rows))],
                sampler_logp=[row.logps for row in rows], old_logp=[row.logps for row in rows],
                prompt_texts=[""] * len(rows), texts=[""] * len(rows))
        return known[group_size]

    return draw


LISTS = ("rewards", "parts", "truncated", "sampler_logp", "old_logp", "ref_logp", "prompt_texts", "texts")
RAGGED = (0, 3, 4, 5, 6, 8)  # of three groups of three: one row, three, two


def picked(batch, order):
    """The batch's rows in this order, some perhaps left out."""
    lists = {name: [getattr(batch, name)[row] for row in order] if getattr(batch, name) else [] for name in LISTS}
    rows = Rows([batch.rows.prompts[row] for row in order], [batch.rows.completions[row] for row in order])
    return replace(batch, rows=rows, **lists)


def logged(world, batch):
    """Ragged groups of a batch in groups of three, with the log-probs of the policy as it was loaded."""
    batch = replace(picked(batch, RAGGED), group_size=0, sampler_logp=[], old_logp=[], prompt_texts=[], texts=[],
                    prompt_index_N=torch.tensor([row // 3 for row in RAGGED]))
    with torch.no_grad():
        logp_NT = world.policy().evaluate(pad(batch.rows, 0), 1.0).logp_NT
    return replace(batch, ref_logp=[logp[:len(ids)].tolist() for logp, ids in zip(
        logp_NT, batch.rows.completions, strict=True)])


class Ladder:
    """One variant: its batch, and the update that a batch makes of weights some way from the behaviour policy's."""

    def __init__(self, world, folders, folder, drawn, variant, **changes):
        self.name, own = VARIANTS[variant]
        self.settings = settings_of(self.name, optimizer={"lr": 3e-5}, **own | changes)
        self.needs = algorithms.needs(algorithms.get(self.name), self.settings)
        source = algorithms.get(self.name).SOURCE
        batch = drawn({"demonstrations": 1, "pairs": 2, "logged": 3, "rollouts": self.settings.group_size}[source])
        self.batch = batch if source == "rollouts" else (
            logged(world, batch) if source == "logged" else TrainBatch(batch.rows, batch.group_size))
        self.trainer = trainer_of(folder, world, self.settings, self.name, **folders[self.name])
        self.trainer.rollout = None  # the weights are moved below: no sampler knows the rows' log-probs
        self.initial = [weight.detach().clone() for weight in self.trainer.learner.model.parameters()]

    @functools.cached_property
    def expected(self):
        """One pass over the whole batch, padded as little as possible."""
        return self.update()

    def update(self, batch=None, micro_tokens=8192):
        """loss, norm, clipped gradients and weights of one step, always from the same weights."""
        trainer = self.trainer
        with torch.no_grad():
            for weight, initial in zip(trainer.learner.model.parameters(), self.initial, strict=True):
                weight.copy_(initial)
        trainer.micro_tokens, trainer.source = micro_tokens, OneBatch(batch or self.batch)
        trainer.__post_init__()  # anew: optimiser, schedule, value head
        generator = torch.Generator().manual_seed(1)
        gradients = []
        with torch.no_grad():
            for parameter in trainer.parameters:
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
        trainer.optimizer.register_step_pre_hook(
            lambda *_: gradients.append([parameter.grad.clone() for parameter in trainer.parameters]))
        (record,) = trainer.steps()
        return SimpleNamespace(metrics=record.metrics, gradients=[part for update in gradients for part in update],
                               weights=[parameter.detach().clone() for parameter in trainer.parameters])


def steps_of(tokenizer, ids):
    """The world's responses have no labels: cut them after the second and then every fourth token."""
    return sorted({*range(2, len(ids), 4), len(ids)})


@pytest.fixture(scope="module")
def drawn_t5(t5_world):
    return drawn_from(t5_world)


# With an encoder, a method of each kind that asks the model for something else.
KINDS = {(algorithms.get(name).SOURCE, algorithms.get(name).NEEDS): name for name in reversed(algorithms.names())}


@pytest.fixture(params=[*VARIANTS, *(f"{name} with an encoder" for name in KINDS.values())], scope="module")
def ladder(request, folders, tmp_path_factory):
    variant = request.param.removesuffix(" with an encoder")
    world, drawn = (request.getfixturevalue(name) for name in (
        ("world", "drawn") if variant == request.param else ("t5_world", "drawn_t5")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "step_ends", steps_of)
        yield Ladder(world, folders, tmp_path_factory.mktemp("ladder"), drawn, variant)


def same(actual, expected):
    # a loss may be what is left of sums a hundred times as large: fp32 keeps 1e-4 of it, and 1e-5 of a norm
    for name, rounding in (("loss", 1e-4), ("grad_norm", 1e-5)):
        assert actual.metrics[name] == pytest.approx(expected.metrics[name], rel=1e-5, abs=rounding), name
    assert expected.metrics["grad_norm"] > 1e-3
    whole = max(1.0, float(torch.cat([part.flatten() for part in expected.gradients]).norm()))  # some methods clip nothing
    for ours, theirs in zip(actual.gradients, expected.gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6 * whole, rtol=1e-4)
    count = len(expected.weights)
    for place, (ours, theirs) in enumerate(zip(actual.weights, expected.weights, strict=True)):
        # Adam's first step goes by a gradient's sign, which says nothing where it is rounding
        clear = torch.stack(expected.gradients[place::count]).abs().amin(0) > 1e-5 * whole
        torch.testing.assert_close(ours[clear], theirs[clear], atol=1e-5, rtol=0)


def test_passes(ladder):
    for micro_tokens in (1, 60, 200):
        actual = ladder.update(micro_tokens=micro_tokens)
        same(actual, ladder.expected)
        assert actual.metrics == pytest.approx(ladder.expected.metrics, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(("left", "right", "filler", "micro_tokens"), [(3, 0, 0, 8192), (5, 7, 2, 40)])
def test_padding(ladder, monkeypatch, left, right, filler, micro_tokens):
    def wide(rows, pad_id):
        plain = pad(rows, filler)
        widen = torch.nn.functional.pad
        return RowTensors(widen(plain.prompt_ids_NP, (left, 0), value=filler), widen(plain.prompt_mask_NP, (left, 0)),
                          widen(plain.ids_NT, (0, right), value=filler), widen(plain.mask_NT, (0, right)))

    expected = ladder.expected
    monkeypatch.setattr(loop, "pad", wide)
    same(ladder.update(micro_tokens=micro_tokens), expected)


def test_order_of_groups(ladder):
    if "generator" in ladder.needs:
        pytest.skip("a group's chance is that of its place in the batch")
    batch = ladder.batch
    index = [n // batch.group_size for n in range(len(batch.rows))] if batch.prompt_index_N is None else (
        batch.prompt_index_N.tolist())
    order = [row for group in (2, 0, 1) for row in range(len(index)) if index[row] == group]
    moved = picked(batch, order)
    if batch.prompt_index_N is not None:
        moved = replace(moved, prompt_index_N=torch.tensor([(2, 0, 1).index(index[row]) for row in order]))
    same(ladder.update(moved), ladder.expected)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if "," not in name])
def test_truncated_rows_can_be_masked(world, folders, tmp_path, drawn, variant):
    ladder = Ladder(world, folders, tmp_path, drawn, variant, mask_truncated=True)
    rows = len(ladder.batch.rows)
    truncated = [n == 1 for n in range(rows)]
    masked = ladder.update(replace(ladder.batch, truncated=truncated))
    kept = ladder.update(replace(ladder.batch, truncated=[False] * rows))
    assert masked.metrics["loss"] != pytest.approx(kept.metrics["loss"], abs=1e-4)
    same(ladder.update(replace(ladder.batch, truncated=truncated), micro_tokens=40), masked)
