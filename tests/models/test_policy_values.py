"""Forwards beyond plain log-probs: nonsense on pads, an end that could not be drawn, and the value head."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rlfamily.models.batching import Rows, pad
from rlfamily.models.layouts.padded import PaddedLayout, inputs

ROWS = Rows([[5, 6, 7], [8, 9], [10]], [[11, 12], [13], [14, 15, 16, 2]])


def plain_logits(learner, rows):
    """logits_NTV that completion tokens are drawn from: padded rows through the model itself."""
    output = learner.model(**inputs(rows), use_cache=False)
    return output.logits[:, -rows.mask_NT.shape[1] - 1:-1]


def evaluated(learner, rows):
    """All that `evaluate` gives, and the gradient of every weight."""
    forward = learner.evaluate(rows, 0.7)
    loss = forward.logp_NT.square().sum() + forward.values_NT.sum()
    return [*forward.tensors().values(), *torch.autograd.grad(loss, list(learner.trainable().values()))]


def with_value_head(world, shares_prefixes):
    learner = world.policy(trainable=True)
    learner.add_value_head()
    with torch.no_grad():
        learner.value_head.weight.fill_(0.1)
    if not shares_prefixes:
        learner.model.set_attn_implementation("sdpa")
        learner.layout = PaddedLayout()
    return learner


def filled(rows, ids_of):
    """Other ids on pads."""
    return replace(rows, prompt_ids_NP=torch.where(rows.prompt_mask_NP > 0, rows.prompt_ids_NP, ids_of(rows.prompt_ids_NP)),
                   ids_NT=torch.where(rows.mask_NT > 0, rows.ids_NT, ids_of(rows.ids_NT)))


def test_pads_are_not_even_passed(world):
    """No token has such an id: to look it up would be an error."""
    learner, rows = with_value_head(world, True), pad(ROWS, 0)
    nonsense = filled(rows, lambda ids: -100)
    expected = evaluated(learner, rows)
    for actual, wanted in zip(evaluated(learner, nonsense), expected, strict=True):
        assert torch.equal(actual, wanted)


def test_pads_that_are_passed_are_inert(world):
    """Where rows are padded: other ids on pads, and logits that are no numbers."""
    learner, rows = with_value_head(world, False), pad(ROWS, 0)
    expected = evaluated(learner, rows)
    other = filled(rows, lambda ids: torch.arange(ids.shape[1]) + 3)

    def spoil(_module, _inputs, output):
        nowhere_NL = inputs(rows)["attention_mask"][:, -output.logits.shape[1]:] == 0
        assert nowhere_NL.any()
        return replace(output, logits=output.logits.masked_fill(nowhere_NL[..., None], torch.nan))

    learner.model.register_forward_hook(spoil)
    for actual, wanted in zip(evaluated(learner, other), expected, strict=True):
        torch.testing.assert_close(actual, wanted, atol=1e-5, rtol=1e-5)


def test_rows_without_tokens_count_nothing(world):
    for shares_prefixes in (True, False):
        learner = with_value_head(world, shares_prefixes)
        forward = learner.evaluate(pad(Rows([[5, 6], [5, 6], [7]], [[], [8, 2], []]), 0), 1.0)
        alone = learner.evaluate(pad(Rows([[5, 6]], [[8, 2]]), 0), 1.0)
        for part, wanted in zip(forward.tensors().values(), alone.tensors().values(), strict=True):
            assert not part[0].any() and not part[2].any()
            torch.testing.assert_close(part[1], wanted[0], atol=1e-5, rtol=0)
        nothing = learner.evaluate(pad(Rows([[5, 6], [7]], [[], []]), 0), 1.0)
        assert not any(part.any() for part in nothing.tensors().values())
        nothing.logp_NT.sum().backward()


def test_tokens_that_could_not_be_the_end_have_log_probs_without_it(world):
    learner = world.policy()
    rows = replace(pad(ROWS, learner.pad_id), min_new_tokens=2)
    with torch.no_grad():
        logits_NTV = plain_logits(learner, rows)
        forward = learner.evaluate(rows, 0.7)
    logits_NTV[:, :2, learner.eos_id] = -torch.inf
    logp_NTV = (logits_NTV / 0.7).log_softmax(-1)
    expected_NT = logp_NTV.gather(2, rows.ids_NT.unsqueeze(2)).squeeze(2)
    real_NT = rows.mask_NT > 0
    torch.testing.assert_close(forward.logp_NT[real_NT], expected_NT[real_NT], atol=1e-5, rtol=0)
    assert forward.entropy_N.isfinite().all()
    assert rows[1:].min_new_tokens == 2
    loose = learner.evaluate(pad(ROWS, learner.pad_id), 0.7).logp_NT
    assert (forward.logp_NT[:, :2] > loose[:, :2]).any()
    torch.testing.assert_close(forward.logp_NT[:, 2:], loose[:, 2:].detach(), atol=1e-6, rtol=0)


# ---------------------------------------------------------------------------- value head


@pytest.mark.parametrize("finetune", ["full", "lora"])
def test_a_value_is_read_at_the_state_before_its_token(world, finetune):
    learner = world.policy(trainable=True, finetune=finetune)
    learner.add_value_head()
    with torch.no_grad():
        assert not learner.evaluate(pad(ROWS, learner.pad_id), 1.0).values_NT.any()  # it starts at 0
        learner.value_head.weight.normal_(generator=torch.Generator().manual_seed(0))
        learner.value_head.bias.fill_(0.5)
        values_NT = learner.evaluate(pad(ROWS, learner.pad_id), 1.0).values_NT
        for n, (prompt, completion) in enumerate(zip(ROWS.prompts, ROWS.completions, strict=True)):
            output = learner.model(torch.tensor([[*prompt, *completion]]), output_hidden_states=True)
            value_L = learner.value_head(output.hidden_states[-1][0]).squeeze(-1)
            for t in range(len(completion)):
                assert float(values_NT[n, t]) == pytest.approx(float(value_L[len(prompt) - 1 + t]), abs=1e-5)
            assert not values_NT[n, len(completion):].any()


def test_a_value_head_changes_no_log_prob_and_costs_no_pass(world, monkeypatch):
    learner, rows = world.policy(trainable=True), pad(ROWS, 0)
    plain, calls = learner.evaluate(rows, 1.0), []
    assert plain.values_NT is None
    learner.add_value_head()
    real = learner.model.model.forward
    monkeypatch.setattr(learner.model.model, "forward", lambda *args, **kwargs: calls.append(1) or real(*args, **kwargs))
    assert torch.equal(learner.evaluate(rows, 1.0).logp_NT, plain.logp_NT)
    assert len(calls) == 1
    assert not learner.model.get_output_embeddings()._forward_pre_hooks


def test_values_are_fp32_under_bf16(world):
    learner = world.policy(trainable=True, dtype="bf16")
    learner.add_value_head()
    with torch.no_grad():
        learner.value_head.weight.fill_(1.0)
    forward = learner.evaluate(pad(ROWS, learner.pad_id), 1.0)
    assert forward.values_NT.dtype == torch.float32
    forward.values_NT.sum().backward()
    assert learner.value_head.weight.grad.dtype == torch.float32
    assert learner.model.get_input_embeddings().weight.grad.any()
