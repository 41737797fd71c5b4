"""Each distinct prompt once: outputs and gradients are those of padded rows."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from rlfamily.models.batching import Rows, pad
from rlfamily.models.layouts import packed, shared_prefix
from rlfamily.models.layouts.packed import PackedLayout
from rlfamily.models.layouts.padded import PaddedLayout
from rlfamily.models.layouts.prefix_attention import PrefixAttention, masked_attention
from rlfamily.models.layouts.ragged import Ragged
from rlfamily.models.policy import Policy

CPU = torch.device("cpu")
SHAPE = {"vocab_size": 32, "hidden_size": 48, "num_hidden_layers": 2, "intermediate_size": 64,
         "max_position_embeddings": 64}
RAGGED = Rows([[5, 6, 7], [5, 6, 7], [8], [9, 10, 11, 12, 13], [9, 10, 11, 12, 13], [5, 6, 7]],
              [[11, 12], [13], [14, 15, 16, 2], [3], [4, 5, 6], [11, 12]])
EVEN = Rows([[5, 6, 7]] * 3 + [[8, 9, 10]] * 3, [[n, n + 1, n + 2, n + 3] for n in range(3, 9)])
SINGLE = Rows([[5, 6], [5, 6]], [[3], [4]])


def llama(heads, kv_heads):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SHAPE, num_attention_heads=heads, num_key_value_heads=kv_heads))


def qwen2(heads, kv_heads):
    torch.manual_seed(0)
    return Qwen2ForCausalLM(Qwen2Config(**SHAPE, num_attention_heads=heads, num_key_value_heads=kv_heads))


def twins(world, model, dtype="fp32"):
    """The same policy twice: packed, and padded with transformers' own attention."""
    tokenizer = world.policy().tokenizer
    padded = Policy(copy.deepcopy(model).eval(), tokenizer, dtype, CPU)
    padded.model.set_attn_implementation("sdpa")
    padded.layout = PaddedLayout()
    packed = Policy(model.eval(), tokenizer, dtype, CPU)
    assert isinstance(packed.layout, PackedLayout)
    return packed, padded


def evaluated(policy, rows, weights_NT):
    forward = policy.evaluate(rows, 0.7)
    loss = (forward.logp_NT * weights_NT).sum()
    if forward.values_NT is not None:
        loss = loss + (forward.values_NT * weights_NT).square().sum()
    loss.backward()
    return forward, {name: weight.grad for name, weight in policy.trainable().items()}


@pytest.fixture(params=["kernels of the CPU", "a mask"])
def both_ways(request, monkeypatch):
    """Completions attend as on a CPU, then as on any other device."""
    if request.param == "a mask":
        packs, pack = [], packed.pack
        monkeypatch.setattr(packed, "pack", lambda rows: packs.append(pack(rows)) or packs[-1])
        monkeypatch.setattr(shared_prefix, "PrefixAttention", SimpleNamespace(apply=lambda *given: masked_attention(
            *given[:6], packs[-1].prompts, packs[-1].prompt_N, given[-1])))


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("rows", [RAGGED, EVEN, SINGLE], ids=["ragged", "even", "single"])
@pytest.mark.parametrize("model", [llama(4, 4), qwen2(4, 2), qwen2(3, 1)], ids=["llama", "gqa", "one kv head"])
def test_log_probs_entropies_values_and_gradients_are_those_of_padded_rows(world, model, rows):
    padded_rows = replace(pad(rows, 0), min_new_tokens=1)
    weights_NT = torch.randn(padded_rows.mask_NT.shape, generator=torch.Generator().manual_seed(1))
    found = []
    for policy in twins(world, copy.deepcopy(model)):
        policy.add_value_head()
        with torch.no_grad():
            policy.value_head.weight.fill_(0.1)
        found.append(evaluated(policy, padded_rows, weights_NT))
    (ours, our_gradients), (theirs, their_gradients) = found
    for actual, expected in zip(ours.tensors().values(), theirs.tensors().values(), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    assert our_gradients.keys() == their_gradients.keys()
    for name, gradient in their_gradients.items():
        torch.testing.assert_close(our_gradients[name], gradient, atol=2e-5, rtol=1e-4, msg=name)


def test_bf16_differs_by_rounding_alone(world):
    rows = pad(RAGGED, 0)
    ours, theirs = (policy.evaluate(rows, 1.0).logp_NT for policy in twins(world, qwen2(4, 2), "bf16"))
    torch.testing.assert_close(ours, theirs, atol=0.05, rtol=0)


def test_adapters_train_the_same(world):
    from peft import LoraConfig, get_peft_model

    rows = pad(RAGGED, 0)
    weights_NT = torch.randn(rows.mask_NT.shape, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(3)
    adapted = get_peft_model(qwen2(4, 2), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False,
                                                     task_type="CAUSAL_LM"))
    (_, ours), (_, theirs) = (evaluated(policy, rows, weights_NT) for policy in twins(world, adapted))
    assert len(ours) == 2 * 7 * 2  # A and B of seven layers each, no weight besides
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], atol=2e-5, rtol=1e-4, msg=name)


def test_a_prompt_is_passed_once_and_a_last_token_never(world, monkeypatch):
    policy, _ = twins(world, qwen2(4, 2))
    seen, forward = [], policy.model.forward
    monkeypatch.setattr(policy.model, "forward", lambda **kwargs: seen.append(kwargs) or forward(**kwargs))
    policy.evaluate(pad(RAGGED, 0), 1.0)
    (call,) = seen
    prompts, tails = [5, 6, 7, 8, 9, 10, 11, 12, 13, 5, 6, 7], [11, 14, 15, 16, 4, 5, 11]
    assert call["input_ids"].tolist() == [[*prompts, *tails]]
    assert call["position_ids"].tolist() == [[0, 1, 2, 0, 0, 1, 2, 3, 4, 0, 1, 2, *(3, 1, 2, 3, 5, 6, 3)]]
    assert len(call["logits_to_keep"]) == sum(map(len, RAGGED.completions))


def test_models_with_other_attention_stay_padded(world):
    tokenizer = world.policy().tokenizer
    sizes = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12}
    sliding = Qwen2Config(**SHAPE, num_attention_heads=4, num_key_value_heads=2, use_sliding_window=True,
                          sliding_window=4, max_window_layers=0)
    for model in (Gemma2ForCausalLM(Gemma2Config(**SHAPE, **sizes)), Qwen2ForCausalLM(sliding)):
        before = model.config._attn_implementation
        policy = Policy(model.eval(), tokenizer, "fp32", CPU)
        assert isinstance(policy.layout, PaddedLayout)
        assert model.config._attn_implementation == before
        rows = pad(RAGGED, 0)
        together = policy.evaluate(rows, 1.0).logp_NT.detach()
        for n in range(len(RAGGED)):
            alone = policy.evaluate(pad(Rows(RAGGED.prompts[n:n + 1], RAGGED.completions[n:n + 1]), 0), 1.0).logp_NT
            torch.testing.assert_close(together[n, :alone.shape[1]], alone[0].detach(), atol=1e-5, rtol=0)


def test_learned_positions_are_shared_too(world):
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_embd=48, n_layer=2, n_head=4, n_positions=64))
    ours, theirs = (policy.evaluate(pad(RAGGED, 0), 1.0).logp_NT for policy in twins(world, model))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_plain_calls_still_work_on_an_enabled_model(world):
    policy, other = twins(world, qwen2(4, 2))
    ids, attention = torch.tensor([[0, 5, 6, 7], [3, 4, 5, 6]]), torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    ours, theirs = (one.model(input_ids=ids, attention_mask=attention).logits for one in (policy, other))
    torch.testing.assert_close(ours[attention > 0], theirs[attention > 0])
    policy.model.generation_config.eos_token_id = None
    kwargs = {"attention_mask": attention, "max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    assert policy.model.generate(ids, **kwargs).tolist() == other.model.generate(ids, **kwargs).tolist()


@pytest.mark.parametrize("lengths", [[3, 3], [2, 0, 3], [1]])
def test_a_grid_and_its_runs_are_one(lengths):
    runs = Ragged(torch.tensor(lengths))
    states = torch.randn(sum(lengths), 2, 4)
    grid = runs.grid(states)
    assert grid.shape == (len(lengths), 2, max(lengths), 4)
    start = 0
    for n, length in enumerate(lengths):
        assert torch.equal(grid[n, :, :length].transpose(0, 1), states[start:start + length])
        start += length
    assert torch.equal(runs.flat(grid), states)


@pytest.mark.parametrize("masked", [False, True], ids=["two parts", "mask"])
def test_attention_to_a_prefix_is_attention(masked):
    """Against the definition, in float64, gradients included."""
    generator = torch.Generator().manual_seed(0)
    lengths, prefixes, heads, width = [3, 2, 4], [5, 2], 2, 6  # rows 0 and 1 follow prefix 0
    own, together = Ragged(torch.tensor(lengths)), Ragged(torch.tensor([5, 4]))
    tails = [torch.randn(9, heads, width, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(3)]
    heads_of = [torch.randn(2, heads, 5, width, dtype=torch.float64, generator=generator).requires_grad_() for _ in "kv"]
    bias = torch.zeros(2, 1, 1, 5, dtype=torch.float64)
    bias[1, ..., 2:] = -torch.inf
    if masked:
        out = masked_attention(*tails, *heads_of, own, Ragged(torch.tensor(prefixes)), torch.tensor([0, 0, 1]), 0.3)
    else:
        out = PrefixAttention.apply(*tails, *heads_of, own, together, bias, 0.3)
    expected, start = [], 0
    for row, length in enumerate(lengths):
        prefix = 0 if row < 2 else 1
        query, key, value = (part[start:start + length] for part in tails)
        keys, values = (torch.cat([part[prefix, :, :prefixes[prefix]].transpose(0, 1), rest])
                        for part, rest in zip(heads_of, (key, value), strict=True))
        scores = torch.einsum("qhd,khd->hqk", query, keys) * 0.3
        hidden = torch.ones(length, len(keys)).triu(prefixes[prefix] + 1) > 0
        weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        expected.append(torch.einsum("hqk,khd->qhd", weights, values))
        start += length
    torch.testing.assert_close(out, torch.cat(expected))
    slope = torch.randn(out.shape, dtype=torch.float64, generator=generator)
    ours, theirs = (torch.autograd.grad((one * slope).sum(), [*tails, *heads_of]) for one in (out, torch.cat(expected)))
    for actual, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(actual, wanted)


@pytest.mark.parametrize("size", [1.0, 300.0, 1000.0])
def test_large_scores_of_other_rows_leave_gradients_finite(size):
    """A pad must not carry what one row scores to the keys of another: exp of it would overflow."""
    generator = torch.Generator().manual_seed(0)
    own, together = Ragged(torch.tensor([3, 1])), Ragged(torch.tensor([3, 1]))
    query, *rest = [torch.randn(4, 2, 8, generator=generator) for _ in range(3)]
    prefix = [torch.randn(2, 2, 5, 8, generator=generator) for _ in range(2)]
    given = [states.requires_grad_() for states in (query * size, *rest, *prefix)]
    out = PrefixAttention.apply(*given, own, together, None, 0.35)
    wide = [states.detach().double().requires_grad_() for states in given]
    expected = PrefixAttention.apply(*wide, own, together, None, 0.35)
    ours, theirs = torch.autograd.grad(out.sum(), given), torch.autograd.grad(expected.sum(), wide)
    for actual, wanted in zip(ours, theirs, strict=True):
        assert wanted.isfinite().all()
        torch.testing.assert_close(actual.double(), wanted, atol=1e-3 * size, rtol=1e-3)


def test_enabling_changes_nothing_on_disk(world, tmp_path):
    policy, _ = twins(world, qwen2(4, 2))
    policy.save(tmp_path)
    assert shared_prefix.NAME not in (tmp_path / "config.json").read_text()
