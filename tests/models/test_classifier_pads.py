"""The score is read at a text's last token, whatever a pad is."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

from rlfamily.models.classifier import Classifier

WORDS = {word: place for place, word in enumerate(["<unk>", "<eos>", *"abcdef"])}


@pytest.mark.parametrize("micro_batch", [1, 2, 3])
@pytest.mark.parametrize("pad", [None, "<eos>", "<unk>"])
def test_a_text_that_ends_in_the_end_token_is_read_to_its_end(pad: str | None, micro_batch: int) -> None:
    words = Tokenizer(WordLevel(WORDS, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="<eos>", pad_token=pad)
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(LlamaConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_labels=1, initializer_range=0.5))
    texts = ["a b c <eos>", "d <eos>", "a <eos> b <eos> <eos>", "f e"]
    expected = []
    for text in texts:
        ids = torch.tensor([[WORDS[word] for word in text.split()]])
        expected.append(model.score(model.model(input_ids=ids).last_hidden_state[:, -1]).item())
    found = Classifier(model, tokenizer, torch.device("cpu")).score(texts, None, 0, 100, micro_batch)
    assert found == pytest.approx(expected, abs=1e-5)
