"""A policy with an encoder on a CUDA device: the CPU's log-probs and gradients, and a sampler that agrees with them."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from rlfamily.models.batching import Rows, pad
from rlfamily.models.policy import Policy
from rlfamily.models.scratch import train_tokenizer
from rlfamily.rollout import SamplingParams
from rlfamily.rollout.torch_engine import TorchEngine

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

WORDS, END = 40, 2
PROMPTS = [[5, 6, 7], [5, 6, 7], [8], [9, 10, 11, 12, 13], [9, 10, 11, 12, 13]]
ROWS = Rows(PROMPTS, [[14, 15, END], [16], [17, 18, 19, 20, END], [END], [21, 22]])


def policy_on(device, dtype="fp32"):
    """The same random weights anywhere."""
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(T5Config(
        vocab_size=WORDS, d_model=64, d_kv=16, d_ff=96, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu",
        eos_token_id=END, decoder_start_token_id=0)).eval()
    return Policy(copy.deepcopy(model), train_tokenizer(map(str, range(WORDS - 3))), dtype, torch.device(device))


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 1e-3), ("bf16", 0.2)])
def test_log_probs_are_those_of_the_cpu(dtype, tolerance):
    rows = pad(ROWS, 0)
    with torch.no_grad():
        expected = policy_on("cpu").evaluate(rows, 1.0).logp_NT
        actual = policy_on("cuda", dtype).evaluate(rows, 1.0).logp_NT.cpu()
    assert (expected - actual).abs().max() < tolerance


@pytest.mark.parametrize("apart", [False, True])
def test_gradients_are_those_of_the_cpu(apart):
    found = []
    for device in ("cpu", "cuda"):
        policy, rows = policy_on(device), pad(ROWS, 0)
        policy.add_value_head("prompt", apart=apart, width=8, seed=1)
        forward = policy.evaluate(rows, 1.0)
        (forward.logp_NT.sum() + (forward.prompt_values_N - 1).square().sum()).backward()
        found.append({name: weight.grad.cpu() for name, weight in policy.trainable().items() if weight.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, expected in found[0].items():
        torch.testing.assert_close(found[1][name], expected, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("look", [{}, {"repetition_penalty": 1.2, "no_repeat_ngram": 3}], ids=str)
def test_sampler_and_trainer_agree_on_a_sample(look):
    policy = policy_on("cuda")
    params = SamplingParams(False, 1.0, 60, max_new_tokens=20, logps=True, **look)
    drawn = TorchEngine(policy, 3).generate(PROMPTS, params, range(5))
    again = TorchEngine(policy, 100).generate(PROMPTS, params, range(5))
    assert [row.ids for row in drawn] == [row.ids for row in again]
    with torch.no_grad():
        logp_NT = policy.evaluate(pad(Rows(PROMPTS, [row.ids for row in drawn]), 0), 1.0).logp_NT.cpu()
    for row, logp_T in zip(drawn, logp_NT, strict=True):
        if not look:  # else they are drawn from another distribution
            assert row.logps == pytest.approx(logp_T[:len(row.ids)].tolist(), abs=1e-3)
