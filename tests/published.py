"""Tiny models of the published classes, saved in the hub's own format: what the tests have instead of a network."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import (
    BartConfig,
    BartForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedTokenizerFast,
)

WORDS = [f"w{index}" for index in range(30)]


def save_gpt2(folder: Path, labels: int = 1) -> Path:
    """A GPT-2 reward model. No pad token, and EOS is BOS, as in the published ones."""
    words = Tokenizer(WordLevel({word: index for index, word in enumerate(["<|endoftext|>", *WORDS])},
                                unk_token="<|endoftext|>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    token = "<|endoftext|>"
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token=token, bos_token=token, eos_token=token,
                            model_max_length=64).save_pretrained(folder)
    torch.manual_seed(0)
    GPT2ForSequenceClassification(GPT2Config(
        vocab_size=31, n_embd=16, n_layer=2, n_head=2, n_positions=64, num_labels=labels, initializer_range=0.5,
        bos_token_id=0, eos_token_id=0)).save_pretrained(folder)
    return folder


def save_bart(folder: Path) -> Path:
    """A BART detector with two labels, which reads `<s> text </s></s> pair </s>`."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    words = Tokenizer(WordLevel({word: index for index, word in enumerate([*special, *WORDS])}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=False)
    PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", pad_token="<pad>", eos_token="</s>",
                            unk_token="<unk>", model_max_length=64).save_pretrained(folder)
    torch.manual_seed(1)
    BartForSequenceClassification(BartConfig(
        vocab_size=34, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=64, id2label={0: "HALLUCINATED", 1: "FAITHFUL"},
        label2id={"HALLUCINATED": 0, "FAITHFUL": 1}, init_std=0.5, pad_token_id=1, bos_token_id=0, eos_token_id=2, decoder_start_token_id=2)).save_pretrained(folder)
    return folder
