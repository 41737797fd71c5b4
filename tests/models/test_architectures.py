"""Any language model has right log-probs, given and drawn, or is refused: some families; `architectures` has all."""

from __future__ import annotations

import pytest
import torch
from architectures import build, result, tried
from transformers import AutoModelForSeq2SeqLM, LlamaConfig, LlamaForCausalLM

from rlfamily.errors import UserError
from rlfamily.models.layouts import check
from rlfamily.models.layouts.declared import is_plain, positions
from rlfamily.models.layouts.packed import PackedLayout
from rlfamily.models.layouts.padded import PaddedLayout
from rlfamily.models.layouts.single import SingleLayout
from rlfamily.models.policy import Policy

WINDOW = {"sliding_window": 4, "use_sliding_window": True}


@pytest.mark.parametrize(("name", "changes", "layout"), [
    ("llama", {}, "shared"), ("qwen2", {}, "shared"), ("qwen2", WINDOW, "padded"), ("qwen3_moe", {}, "shared"),
    ("mistral", {"sliding_window": None}, "shared"), ("mistral", {}, "padded"), ("phi3", WINDOW, "padded"),
    ("starcoder2", WINDOW, "padded"), ("gemma2", {}, "padded"), ("gpt2", {}, "shared"), ("bloom", {}, "padded"),
    ("falcon_h1", {}, "padded"), ("lfm2", {}, "padded"), ("llama4_text", {}, "row by row"),
    ("mamba", {}, "row by row"), ("rwkv", {}, "row by row"), ("recurrent_gemma", {}, "row by row"),
], ids=lambda value: value if isinstance(value, str) else "windowed" if value is WINDOW else "")
def test_a_family_takes_the_fastest_layout_that_is_right(name, changes, layout):
    assert result(name, **changes) == layout


@pytest.mark.parametrize(("name", "layout"), [
    ("t5", "encoded once"), ("mt5", "encoded once"), ("umt5", "encoded once"), ("bart", "encoded once"),
    ("mbart", "encoded once"), ("pegasus", "encoded once"), ("marian", "encoded once"), ("blenderbot", "encoded once"),
    ("led", "row by row"), ("longt5", "row by row"), ("switch_transformers", "row by row"), ("t5gemma", "row by row"),
    ("bigbird_pegasus", "row by row"), ("m2m_100", "encoded once")])
def test_prompts_are_encoded_once_where_that_is_right(name, layout):
    assert result(name, AutoModelForSeq2SeqLM) == layout


def test_an_encoder_that_is_not_understood_is_refused():
    with pytest.raises(UserError, match="ProphetNetForConditionalGeneration cannot be trained or drawn from here"):
        tried(build("prophetnet", AutoModelForSeq2SeqLM))


@pytest.mark.parametrize(("name", "limit"), [("bart", 64), ("led", 64), ("t5", None), ("umt5", None)])
def test_positions_are_those_of_each_side(name, limit):
    model = build(name, AutoModelForSeq2SeqLM, **({"max_encoder_position_embeddings": 128} if name == "led" else {}))
    for added in (0, 1):
        assert positions(model.config, added) == (limit and limit - added)


def test_a_model_that_sees_what_follows_is_refused():
    with pytest.raises(UserError, match="BertLMHeadModel cannot be trained or drawn from here: what is drawn from"):
        tried(build("bert"))
    assert tried(build("bert", is_decoder=True))[1] < 1e-5


def test_an_unknown_declaration_costs_the_fast_layout():
    config = LlamaConfig()
    assert is_plain(config)
    config.attention_sinks = 4
    assert not is_plain(config)


def test_a_window_that_no_row_exceeds_is_plain():
    assert is_plain(build("mistral", sliding_window=64, max_position_embeddings=64).config)
    assert not is_plain(build("mistral", sliding_window=63, max_position_embeddings=64).config)


class Shifted(LlamaForCausalLM):
    """Says something else when it is given `spoilt`."""

    spoilt = "attention_mask"

    def forward(self, input_ids, attention_mask=None, position_ids=None, past_key_values=None, logits_to_keep=0,
                use_cache=None, **options):
        given = {"attention_mask": attention_mask, "shared": options.get("shared"), "input_ids": input_ids}
        output = super().forward(input_ids, attention_mask=attention_mask, position_ids=position_ids,
                                 past_key_values=past_key_values, logits_to_keep=logits_to_keep, use_cache=use_cache,
                                 **options)
        if given[self.spoilt] is not None and (self.spoilt != "input_ids" or input_ids.shape[1] == 6):
            output.logits = output.logits.roll(1, -1)
        return output


@pytest.mark.parametrize(("spoilt", "layout"), [
    ("shared", PaddedLayout), ("attention_mask", SingleLayout), ("input_ids", None), (None, PackedLayout)])
def test_what_differs_from_a_plain_pass_falls_to_the_next_safer_layout(world, spoilt, layout, monkeypatch):
    monkeypatch.setattr(Shifted, "spoilt", spoilt)
    monkeypatch.setattr(Shifted, "forward", Shifted.forward if spoilt else LlamaForCausalLM.forward)
    torch.manual_seed(0)
    model = Shifted(LlamaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1, intermediate_size=16,
                                num_attention_heads=2)).train()
    tokenizer, cpu = world.policy().tokenizer, torch.device("cpu")
    if layout is None:
        with pytest.raises(UserError, match="Shifted cannot be trained or drawn from here"):
            Policy(model, tokenizer, "bf16", cpu)
        return
    policy = Policy(model, tokenizer, "bf16", cpu)
    assert type(policy.layout) is layout
    assert (policy.dtype, model.training) == ("bf16", True)  # as they were


def test_the_rows_of_the_check_are_two_of_different_lengths():
    assert len({len(row) for row in check.PROMPTS}) == len({len(row) for row in check.COMPLETIONS}) == 2
