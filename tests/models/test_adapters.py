"""Adapters go where they are told to, and the saved model is the trained one; else one line says why not."""

from __future__ import annotations

import re

import pytest
import torch

from rlfamily.config import build
from rlfamily.errors import UserError
from rlfamily.models import Lora
from rlfamily.models.batching import Rows, pad

ROWS = pad(Rows([[5, 6, 7], [8]], [[11, 12], [13, 14, 2]]), 0)


def adapted(world, targets):
    return world.policy(trainable=True, finetune="lora", lora=Lora(rank=2, alpha=4, targets=targets))


def touched(policy):
    return sorted({name.split(".lora_")[0].rpartition(".")[2] for name in policy.trainable()})


@pytest.mark.parametrize(("targets", "found"), [
    ("q_proj", ["q_proj"]), (["q_proj", "v_proj"], ["q_proj", "v_proj"]), ("q_proj, up_proj", ["q_proj", "up_proj"]),
    (["self_attn.k_proj"], ["k_proj"]), (".*_proj", ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj",
                                                     "v_proj"]),
    (r".*\.(q|k)_proj", ["k_proj", "q_proj"]),
    ("all-linear", ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]),
], ids=str)
def test_targets_are_names_a_list_or_an_expression(world, targets, found, tmp_path):
    policy = adapted(world, targets)
    assert touched(policy) == found
    with torch.no_grad():
        for weight in policy.trainable().values():
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    trained = policy.evaluate(ROWS, 1.0).logp_NT
    policy.save(tmp_path)
    from rlfamily.models import policy as policies

    saved = policies.load(tmp_path, world.finetuning, torch.device("cpu"), trainable=False)
    torch.testing.assert_close(saved.evaluate(ROWS, 1.0).logp_NT, trained, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("targets", "line"), [
    ("q_porj", "no module is called 'q_porj' (did you mean 'q_proj'?): there are "),
    (["q_proj", "value"], "no module is called 'value'"),
    (".*nothing", "no module is called '.*nothing'"),
    ("(", "is no regular expression"),
    (".*embed_tokens", "model.embed_tokens shares its weights with lm_head"),
    ("lm_head", "lm_head shares its weights with model.embed_tokens"),
    (["q_proj", "embed_tokens"], "model.embed_tokens shares its weights with lm_head"),
    (".*", "shares its weights"),
    ("input_layernorm", "model.lora.targets: Target module"),
], ids=str)
def test_targets_that_cannot_be_are_one_line(world, targets, line):
    with pytest.raises(UserError, match=re.escape(line)) as raised:
        adapted(world, targets)
    assert str(raised.value).startswith("model.lora.targets")
    assert "\n" not in str(raised.value)


def test_a_list_can_be_written_on_the_command_line():
    assert build(["model.lora.targets=[q_proj,v_proj]"]).model.lora.targets == ["q_proj", "v_proj"]
    for targets in ("[]", "[q_proj,value]", "q_porj", "'('", "lm_head"):  # known without the model, of one built here
        with pytest.raises(UserError, match=r"lora\.targets"):
            build([f"model.lora.targets={targets}"])
