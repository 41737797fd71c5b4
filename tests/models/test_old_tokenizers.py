"""A tokenizer without `tokenizer.json` loads as AutoTokenizer loads it."""

from __future__ import annotations

import json

import pytest
from tokenizers import SentencePieceBPETokenizer
from transformers import AutoTokenizer, GPT2Config, LlamaConfig, OPTConfig

from rlfamily.errors import UserError
from rlfamily.models.policy import load_tokenizer

WORDS = ["l", "o", "w", "Ġ", "e", "r", "lo", "low", "er", "Ġlow", "<|endoftext|>", "</s>", "<pad>"]


def merges_folder(folder, config, **settings):
    """What GPT-2 and OPT were published as: a vocabulary and the order of its merges."""
    config.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({word: place for place, word in enumerate(WORDS)}))
    (folder / "merges.txt").write_text("#version: 0.2\nl o\nlo w\ne r\nĠ low\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize(("config", "settings"), [
    (GPT2Config(), {"tokenizer_class": "GPT2Tokenizer"}),
    (GPT2Config(), {}),
    (OPTConfig(), {"tokenizer_class": "GPT2Tokenizer", "bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>",
                   "add_bos_token": True}),
], ids=["gpt2", "gpt2, unnamed", "opt"])
def test_a_vocabulary_with_merges(tmp_path, config, settings):
    folder = merges_folder(tmp_path, config, **settings)
    ours, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    assert not (folder / "tokenizer.json").exists()
    for text in ("low lower", "er", " low"):
        assert ours(text)["input_ids"] == theirs(text)["input_ids"] != []
    assert ours.decode(ours("low lower", add_special_tokens=False)["input_ids"]) == "low lower"
    ours.save_pretrained(tmp_path / "again")  # as policies save theirs
    assert load_tokenizer(tmp_path / "again")("low lower")["input_ids"] == ours("low lower")["input_ids"]


def test_tokenizer_json_counts_where_it_is(tmp_path):
    trained = SentencePieceBPETokenizer()
    trained.train_from_iterator(["low lower"], vocab_size=30, show_progress=False)
    trained.save(str(tmp_path / "tokenizer.json"))
    LlamaConfig().save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path)("low")["input_ids"] == trained.encode("low").ids


def test_a_folder_without_a_tokenizer_is_one_line(tmp_path):
    GPT2Config().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="cannot load") as raised:
        load_tokenizer(tmp_path)
    assert "\n" not in str(raised.value)
