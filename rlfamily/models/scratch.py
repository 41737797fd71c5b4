"""Build a small model of a real transformers class, and the word-level tokenizer that goes with it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from tokenizers.trainers import WordLevelTrainer
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from rlfamily.models import ScratchModel

PAD, UNKNOWN, END = "<pad>", "<unk>", "<eos>"


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Learn a vocabulary of whitespace-separated words, so that every number is one token."""
    tokenizer = Tokenizer(WordLevel(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # Sorted by frequency then word inside the library: the vocabulary depends on the corpus alone.
    tokenizer.train_from_iterator(texts, WordLevelTrainer(special_tokens=[PAD, UNKNOWN, END], show_progress=False))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNKNOWN, eos_token=END, clean_up_tokenization_spaces=False
    )


def build_model(config: ScratchModel, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Return a randomly initialised `Qwen2ForCausalLM` with tied embeddings; `config.seed` fixes the weights."""
    torch.manual_seed(config.seed)
    return Qwen2ForCausalLM(Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        max_position_embeddings=config.max_positions,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    ))
