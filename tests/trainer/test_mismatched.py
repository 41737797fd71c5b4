"""Mismatched rows: each prompt with a completion of the next, evaluated with gradient beside the batch's own rows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

from rlfamily.algorithms import LossOutput
from rlfamily.models.batching import Rows, pad
from rlfamily.rollout.settings import Drawing
from rlfamily.settings import Optimizer
from rlfamily.trainer.loop import Trainer, rows_of_next_prompts
from rlfamily.trainer.recipe import Recipe
from rlfamily.trainer.sources import TrainBatch

PROMPTS = [[5, 6, 7], [5, 6, 7], [5, 6, 7], [8], [9, 10], [9, 10]]
COMPLETIONS = [[11, 12, 2], [13, 2], [14, 15, 16, 2], [3, 4], [12, 2], [7, 8, 9, 10, 11]]
RAGGED = TrainBatch(Rows(PROMPTS, COMPLETIONS), 0, rewards=[1.0, -1.0, 0.5, -0.5, 2.0, 0.0], parts=[{}] * 6,
                    truncated=[False, False, False, True, False, True], prompt_texts=["p"] * 6, texts=["t"] * 6,
                    prompt_index_N=torch.tensor([0, 0, 0, 1, 2, 2]))
EVEN = replace(RAGGED, group_size=2, prompt_index_N=None,
               rows=Rows([PROMPTS[n] for n in (0, 0, 3, 3, 4, 4)], COMPLETIONS))
OTHERS = {"ragged": [3, 3, 3, 4, 0, 1], "even": [2, 3, 4, 5, 0, 1]}
BATCHES = {"ragged": RAGGED, "even": EVEN}
ADAM = Optimizer(lr=1e-3, beta1=0.9, beta2=0.9, weight_decay=0.0, clip_norm=1e9, schedule="constant", warmup_steps=0)


class OneBatch:
    """A source of one step."""

    steps_per_epoch = total_steps = 1

    def __init__(self, batch):
        self.given = batch

    def batch(self, step, clock):
        return self.given

    def log_behaviour(self, step, batch, logp_NT):
        pass


def toy_loss(batch):
    """Every response against what the policy gives to responses that belong elsewhere: all rows meet in one number."""
    elsewhere_N = (batch.mismatched_logp_NT * batch.mismatched_mask_NT).sum(1)
    margin_N = (batch.logp_NT * batch.mask_NT).sum(1) - elsewhere_N.mean()
    return LossOutput(-(0.1 * margin_N * batch.rewards_N).sigmoid().mean())


def trainer_of(learner, batch, needs=("mismatched",), micro_tokens=8192, **options):
    options = {"reference": None, "mask_truncated": False, "rollout": None, "loss": toy_loss} | options
    recipe = Recipe(options["loss"], ADAM, 1.0, frozenset(needs), mask_truncated=options["mask_truncated"])
    return Trainer(learner, options["reference"], OneBatch(batch), recipe, 1.0, micro_tokens, Accelerator(cpu=True), 0, 0,
                   options["rollout"])


def gradients(trainer):
    """Of the trainer's one step."""
    found = []
    trainer.optimizer.register_step_pre_hook(lambda *_: found.extend(weight.grad.clone() for weight in trainer.parameters))
    (record,) = trainer.steps()
    assert len(record.samples) == (trainer.source.given.group_size or 3)  # the first group
    return found


def direct(learner, batch, other):
    """The same loss, differentiated through plain forwards of both kinds of rows."""
    wrong = Rows(batch.rows.prompts, [batch.rows.completions[n] for n in other])
    own, elsewhere = pad(batch.rows, 0), pad(wrong, 0)
    logp_NT, mismatched_logp_NT = (learner.evaluate(rows, 1.0).logp_NT for rows in (own, elsewhere))
    margin_N = logp_NT.sum(1) - mismatched_logp_NT.sum(1).mean()
    loss = -(0.1 * margin_N * torch.tensor(batch.rewards)).sigmoid().mean()
    return torch.autograd.grad(loss, list(learner.trainable().values()))


@pytest.mark.parametrize("known", [False, True], ids=["passed", "the sampler's word"])
@pytest.mark.parametrize("micro_tokens", [8192, 16, 1])
@pytest.mark.parametrize("kind", BATCHES)
def test_the_gradient_is_that_of_a_direct_forward(world, kind, micro_tokens, known):
    learner, batch, rollout = world.policy(trainable=True), BATCHES[kind], None
    expected = direct(learner, batch, OTHERS[kind])
    if known:
        rollout = Drawing(engine="torch", importance_cap=None)
        with torch.no_grad():
            logp_NT = learner.evaluate(pad(batch.rows, 0), 1.0).logp_NT
        batch = replace(batch, sampler_entropy=[0.0] * 6, sampler_logp=[
            row[:len(ids)].tolist() for row, ids in zip(logp_NT, batch.rows.completions, strict=True)])
    trainer = trainer_of(learner, batch, micro_tokens=micro_tokens, rollout=rollout)
    found = gradients(trainer)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)
    assert any(part.any() for part in expected)


def seen(trainer):
    """The batch that the loss is given."""
    batches, real = [], trainer.recipe.loss
    trainer.recipe = replace(trainer.recipe, loss=lambda batch: batches.append(batch) or real(batch))
    next(trainer.steps())
    return batches[0]


def test_the_reference_is_asked_of_them_as_well_and_truncated_completions_are_masked(world):
    batch = seen(trainer_of(world.policy(trainable=True), RAGGED, ("mismatched", "ref"), mask_truncated=True,
                            reference=world.policy()))
    other = OTHERS["ragged"]
    assert batch.mismatched_mask_NT.sum(1).tolist() == [0, 0, 0, 2, 3, 2]
    assert batch.mask_NT.sum(1).tolist() == [3, 2, 4, 0, 2, 0]
    with torch.no_grad():
        plain = world.policy().evaluate(pad(Rows(PROMPTS, [COMPLETIONS[n] for n in other]), 0), 1.0).logp_NT
    width = plain.shape[1]
    torch.testing.assert_close(batch.mismatched_ref_logp_NT[:, :width], plain, atol=1e-5, rtol=0)
    assert torch.equal(batch.mismatched_ref_logp_NT, batch.mismatched_logp_NT)
    assert batch.prompt_index_N is RAGGED.prompt_index_N and batch.group_size == 0


@pytest.mark.parametrize("needs", [(), ("mismatched",)])
def test_nothing_is_passed_that_nobody_asks_for_or_that_is_not_there(world, needs):
    """Of a batch with one prompt there is no other."""
    batch = replace(RAGGED, rows=Rows(PROMPTS[:3], COMPLETIONS[:3]), rewards=[1.0, 0.0, 0.0], group_size=3, truncated=[False] * 3,
                    parts=[{}] * 3, prompt_texts=["p"] * 3, texts=["t"] * 3, prompt_index_N=None) if needs else RAGGED
    found = seen(trainer_of(world.policy(trainable=True), batch, needs,
                            loss=lambda given: LossOutput((given.logp_NT * given.mask_NT).sum())))
    assert found.mismatched_logp_NT is found.mismatched_mask_NT is found.mismatched_ref_logp_NT is None


@pytest.mark.parametrize(("index", "others"), [
    ([0, 0, 0, 1, 2, 2], OTHERS["ragged"]), ([0, 0, 1, 1, 2, 2], OTHERS["even"]), ([0, 1], [1, 0]),
    ([0, 1, 1, 1], [1, 0, 0, 0])])
def test_rows_of_next_prompts_by_hand(index, others):
    assert rows_of_next_prompts(torch.tensor(index)).tolist() == others
