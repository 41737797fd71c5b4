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
    T5Config,
    T5ForConditionalGeneration,
)

from rlfamily.errors import UserError
from rlfamily.models import T5_BUCKETS, ScratchShape

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
    """Return a randomly initialised model with tied embeddings; `config.seed` fixes the weights."""
    torch.manual_seed(config.seed)
    if config.architecture == "t5":
        return T5ForConditionalGeneration(_t5(config, tokenizer))
    config_class, model_class = CLASSES[config.architecture]
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


def _t5(config: ScratchShape, tokenizer: PreTrainedTokenizerFast) -> T5Config:
    """T5 1.1, as Flan-T5: gated GELU; a pad begins every row. Embeddings are tied here, as T5 first had them."""
    return T5Config(
        vocab_size=len(tokenizer),
        d_model=config.hidden_size,
        d_kv=config.hidden_size // config.heads,
        d_ff=config.intermediate_size,
        num_layers=config.layers,
        num_heads=config.heads,
        relative_attention_num_buckets=T5_BUCKETS,
        relative_attention_max_distance=config.max_positions,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        initializer_factor=config.initializer_range,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
