"""Build a small model of a real transformers class, and the word-level tokenizer that goes with it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from rlfamily.errors import UserError
from rlfamily.models import ScratchShape

PAD, UNKNOWN, END = "<pad>", "<unk>", "<eos>"
CLASSES = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}


def tokenizer_of(data: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a generated task: one token for each word that its files may hold."""
    return train_tokenizer(json.loads((data / "vocabulary.json").read_text("utf-8")))


def train_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer with one token for each word; text is split at single spaces, so that "\\n" can be a word.

    The ids depend on the set of words alone. Decoding joins words with " ". Raises UserError for a word that
    splitting could never give.
    """
    vocabulary = sorted(set(words) - {PAD, UNKNOWN, END})
    for word in vocabulary:
        if not word or " " in word:
            raise UserError(f"vocabulary: {word!r} is no word: words are what lies between single spaces")
    ids = {word: index for index, word in enumerate([PAD, UNKNOWN, END, *vocabulary])}
    tokenizer = Tokenizer(WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNKNOWN, eos_token=END, clean_up_tokenization_spaces=False
    )


def build_model(config: ScratchShape, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Return a randomly initialised causal model with tied embeddings; `config.seed` fixes the weights."""
    config_class, model_class = CLASSES[config.architecture]
    torch.manual_seed(config.seed)
    return model_class(config_class(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        max_position_embeddings=config.max_positions,
        initializer_range=config.initializer_range,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    ))
