"""Published classifiers: tiny saved models of the very classes, padded batches, the right logit, and refusals."""

from __future__ import annotations

import pytest
import torch
from published import save_bart, save_gpt2

from rlfamily.errors import UserError
from rlfamily.models import classifier
from rlfamily.models.policy import POINTER

CPU = torch.device("cpu")
TEXTS = ["w1 w2 w3 w4 w5 w6 w7", "w8", "w9 w10 w11"]
PAIRS = ["w3", "w4 w5 w6 w12 w13", "w7 w8"]


@pytest.fixture(params=[save_gpt2, save_bart], ids=["gpt2", "bart"])
def scorer(request, tmp_path):
    return classifier.load(request.param(tmp_path), CPU)


@pytest.mark.parametrize("pairs", [None, PAIRS], ids=["texts", "pairs"])
def test_scores_do_not_depend_on_the_batch(scorer, pairs):
    alone = [scorer.score([text], None if pairs is None else [pairs[n]], 0, 64, 1)[0] for n, text in enumerate(TEXTS)]
    assert len({round(value, 4) for value in alone}) == 3
    for micro_batch in (1, 2, 8):
        assert scorer.score(TEXTS, pairs, 0, 64, micro_batch) == pytest.approx(alone, abs=1e-5)
    assert scorer.score([], None, 0, 64, 8) == []


def test_it_is_the_raw_logit_of_the_model(tmp_path):
    scorer = classifier.load(save_bart(tmp_path), CPU)
    inputs = scorer.tokenizer(TEXTS[0], PAIRS[0], return_tensors="pt")
    assert inputs["input_ids"].tolist()[0].count(2) == 3  # <s> text </s></s> pair </s>
    logits = scorer.model(**inputs).logits[0].tolist()
    assert scorer.logits == 2
    for logit in (0, 1):
        assert scorer.score(TEXTS[:1], PAIRS[:1], logit, 64, 1) == pytest.approx([logits[logit]], abs=1e-6)
    assert logits[0] != pytest.approx(logits[1], abs=1e-3)


def test_a_bos_inside_the_text_is_not_taken_for_its_end(tmp_path):
    """GPT-2 is padded with EOS, which is its BOS too: the score must still be read at the end of the text."""
    scorer = classifier.load(save_gpt2(tmp_path), CPU)
    text = "w1 w2 <|endoftext|> w3 w4"
    ids = scorer.tokenizer(text, return_tensors="pt")["input_ids"]
    hidden = scorer.model.transformer(ids).last_hidden_state[0, -1]
    assert ids.tolist()[0][2] == 0
    assert scorer.score([text, "w5 " * 20], None, 0, 64, 2)[0] == pytest.approx(float(scorer.model.score(hidden)), abs=1e-5)


def test_texts_are_cut(scorer):
    long = "w1 " * 200
    assert scorer.score([long], None, 0, 1024, 1) == pytest.approx(scorer.score(["w1 " * 64], None, 0, 1024, 1), abs=1e-5)
    assert scorer.score([long], None, 0, 8, 1) != pytest.approx(scorer.score([long], None, 0, 16, 1), abs=1e-4)


def test_a_pointer_is_followed_and_only_safetensors_are_read(tmp_path):
    target = save_gpt2(tmp_path / "weights")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / POINTER).write_text(f'{{"path": "{target}", "revision": "main"}}')
    scorer = classifier.load(tmp_path / "model", CPU)
    assert not any(parameter.requires_grad for parameter in scorer.model.parameters()) and not scorer.model.training
    (target / "model.safetensors").rename(target / "pytorch_model.bin")
    with pytest.raises(UserError, match="reward model: cannot load") as error:
        classifier.load(tmp_path / "model", CPU)
    assert "\n" not in str(error.value)
