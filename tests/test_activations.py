"""What a layer keeps for the backward pass, counted on the model classes that the papers use: estimates rest on it."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from bench.drawing import TINY, random_policy
from rlfamily.estimate import KEPT, KEPT_INSIDE, KEPT_KEYS, LOGIT
from rlfamily.models import Lora
from rlfamily.models.batching import Rows, pad
from rlfamily.models.layouts import shared_prefix
from rlfamily.models.policy import Policy, adapt

CPU = torch.device("cpu")
SIZES = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
COPIES, PROMPT, NEW = 4, 40, 24


def kept(kind, layers=2, vocabulary=100, inside=128, lora=False):
    """Bytes that the pass of a group keeps, weights left out, and its tokens."""
    tokenizer = random_policy(TINY, 64).tokenizer
    config = kind(num_hidden_layers=layers, vocab_size=vocabulary, intermediate_size=inside, tie_word_embeddings=False,
                  eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, **SIZES)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    policy = Policy(adapt(model, Lora(rank=2, alpha=4, targets="all-linear")) if lora else model, tokenizer, "bf16", CPU)
    shapes = {shape for weight in model.parameters() for shape in (weight.shape, weight.shape[::-1])}
    found = {}

    def count(tensor):
        if tensor.shape not in shapes:  # weights, and their copies in bf16
            found[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        policy.evaluate(pad(Rows([[5] * PROMPT] * COPIES, [[6] * NEW] * COPIES), 0), 1.0)
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values()), PROMPT + COPIES * (NEW - 1)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("kind", [Qwen2Config, LlamaConfig])
def test_a_layer_keeps_what_the_estimate_says(kind, lora):
    (two, tokens), (four, _) = kept(kind, 2, lora=lora), kept(kind, 4, lora=lora)
    assert (four - two) / 2 / tokens == pytest.approx(KEPT * 64 + KEPT_INSIDE * 128, rel=0.15 if lora else 0.02)
    wider = kept(kind, 2, inside=256, lora=lora)[0]
    assert (wider - two) / 2 / tokens == pytest.approx(KEPT_INSIDE * 128, rel=0.02)


def test_rows_copy_their_prompts_keys_where_no_kernel_shares_them(monkeypatch):
    shared = kept(Qwen2Config)[0]
    monkeypatch.setattr(shared_prefix, "IN_PARTS", frozenset())
    copied = COPIES * (PROMPT + NEW) * KEPT_KEYS * 64
    assert (kept(Qwen2Config)[0] - shared) / 2 == pytest.approx(copied, rel=0.35)  # own keys no more, and a mask


def test_logits_are_kept_once_and_have_a_gradient():
    more = kept(Qwen2Config, vocabulary=1100)[0] - kept(Qwen2Config)[0]
    assert 2 * more == pytest.approx(LOGIT * 1000 * COPIES * NEW, rel=0.02)
