"""Reward models that are a backbone with a scalar head and a bias: read as their authors read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from published import WORDS
from safetensors.torch import save_file
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import GPTNeoXConfig, GPTNeoXModel, PreTrainedTokenizerFast

from rlfamily import rewards
from rlfamily.errors import UserError
from rlfamily.examples import Example
from rlfamily.models import scalar, value
from rlfamily.models.batching import Rows
from rlfamily.rewards import preference

CPU = torch.device("cpu")


def save(folder: Path) -> tuple[GPTNeoXModel, torch.nn.Linear]:
    """The format of vwxyzjn's models: two shards, no architecture in the configuration, [PAD] beside the end token."""
    words = Tokenizer(WordLevel({word: index for index, word in enumerate(["<|endoftext|>", "[PAD]", *WORDS])},
                                unk_token="<|endoftext|>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<|endoftext|>", eos_token="<|endoftext|>",
                            pad_token="[PAD]", model_max_length=64).save_pretrained(folder)
    torch.manual_seed(0)
    config = GPTNeoXConfig(vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                           intermediate_size=32, max_position_embeddings=64, initializer_range=0.5)
    backbone, head = GPTNeoXModel(config).eval(), torch.nn.Linear(16, 1)
    weights = {f"lm_backbone.{name}": tensor.contiguous() for name, tensor in backbone.state_dict().items()}
    half = len(weights) // 2
    save_file(dict(list(weights.items())[:half]), folder / "model-00001-of-00002.safetensors")
    save_file({**dict(list(weights.items())[half:]),
               **{f"scalar_head.{name}": tensor for name, tensor in head.state_dict().items()}},
              folder / "model-00002-of-00002.safetensors")
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["ScalarModel"], "base_model": "somewhere", "base_config": config.to_dict(), "bias": 0.75,
        "hidden_size": 16}))
    return backbone, head


def test_a_score_is_the_head_at_the_last_token_less_the_bias(tmp_path: Path) -> None:
    backbone, head = save(tmp_path)
    assert scalar.is_scalar(tmp_path)
    reward = rewards.load(preference.Config.model_validate({
        "kind": "preference", "models": {}, "max_tokens": 64, "decimals": None, "components": {
            "rm": {"weight": 1.0, "convention": "continuation", "logit": 0, "engine": "torch"}}}),
        lambda response, meta: {}, {"rm": tmp_path}, CPU, 2)
    asked = [Example("a", "w1 w2 w3", {}), Example("b", "w4", {})]
    got = reward.score(asked, [" w5 w6 ", "w7"])
    for parts, text in zip(got, ["w1 w2 w3 w5 w6 <|endoftext|>", "w4 w7 <|endoftext|>"], strict=True):
        ids = PreTrainedTokenizerFast.from_pretrained(tmp_path)(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            last = head(backbone(ids).last_hidden_state)[0, -1, 0] - 0.75
        assert parts.reward == pytest.approx(float(last), abs=1e-5)


def test_a_value_function_starts_from_one_with_its_bias(tmp_path: Path) -> None:
    backbone, head = save(tmp_path)
    start, rows = value.load(tmp_path, "fp32", CPU, trainable=True), Rows([[3, 4]], [[5, 6, 0]])
    with torch.no_grad():
        states = head(backbone(torch.tensor([[3, 4, 5, 6, 0]])).last_hidden_state)[0, 1:, 0] - 0.75
    assert start.score_states(rows, 64)[0] == pytest.approx(states.tolist(), abs=1e-5)
    start.save(tmp_path / "saved")
    again = value.load(tmp_path / "saved", "fp32", CPU, trainable=False)
    assert again.score_rows(rows, 64) == pytest.approx([float(states[-1])], abs=1e-5)


def test_a_model_without_some_weights_is_refused(tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match="lacks the weights"):
        scalar.load(tmp_path, CPU)


def test_other_models_are_none(tmp_path: Any) -> None:
    assert not scalar.is_scalar(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert not scalar.is_scalar(tmp_path)
