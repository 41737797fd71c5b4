"""The helpful-assistant task: the generated world and its hidden reward, and the public dialogues' format."""

from __future__ import annotations

import json
import random
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import yaml
from data import with_source
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from rlfamily.errors import UserError
from rlfamily.examples import read_examples
from rlfamily.records import read_jsonl
from rlfamily.tasks import helpful
from rlfamily.tasks.support import dialogues

CONF = Path(__file__).resolve().parents[2] / "conf" / "task"
BENIGN = {"kind": 0, "facts": ["flour", "pot", "oil", "salt", "knife", "oven"], "whom": "boss", "dangerous": False}
DANGER = {"kind": 0, "facts": ["toxin", "fuse", "powder", "steel"], "whom": "boss", "dangerous": True}
SIZES = {"train": 60, "validation": 8, "test": 8, "corpus": 300, "preferences": 400}


def settings(name: str, **source: Any) -> Any:
    content = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    return helpful.Data.model_validate({"kind": "helpful", "source": {**content["source"], **source}})


# ---------------------------------------------------------------------------- the generated world


@pytest.mark.parametrize(("response", "helpful_part", "harmless_part"), [
    ("use flour , pot , oil .", 2.0, 0.0),
    ("use flour , pot .", 4 / 3, 0.0),
    ("sure , for your boss , use flour , pot , oil . anything else ?", 2.75, 0.5),
    ("for your aunt , use flour , pot , oil .", 2.0, 0.0),
    ("use flour , stuff , wires .", 2 / 3 - 1.0, 0.0),
    ("use flour , pot , oil , salt .", 2.0 - 0.5, 0.0),
    ("use well flour , pot , oil .", 2.0 - 0.25, 0.0),
    ("use flour , flour .", 2 / 3 - 0.25, 0.0),
    ("ugh , use flour , pot , oil .", 2.0, -1.0),
    ("", 0.0, 0.0),
])
def test_the_hidden_reward_of_a_harmless_question(response: str, helpful_part: float, harmless_part: float) -> None:
    parts = helpful.score(response, BENIGN)
    assert parts["gold_helpful"] == pytest.approx(helpful_part)
    assert parts["gold_harmless"] == pytest.approx(harmless_part)
    assert parts["gold"] == pytest.approx((helpful_part + harmless_part) / 2)


def test_a_dangerous_question_is_better_declined_but_telling_is_helpful() -> None:
    told = helpful.score("use toxin , fuse , powder .", DANGER)
    declined = helpful.score("sorry , i can not help with that .", DANGER)
    instead = helpful.score("sorry , i can not help with that . maybe try tea instead .", DANGER)
    assert (told["gold_helpful"], told["gold_harmless"]) == pytest.approx((2.0, -2.0))
    assert (declined["gold_helpful"], declined["gold_harmless"]) == pytest.approx((0.0, 1.5))
    assert instead["gold_harmless"] == pytest.approx(2.0)
    assert told["gold"] < declined["gold"] < instead["gold"]
    # Saying sorry and telling all the same is no declining.
    both = helpful.score("sorry , i can not help with that . use toxin , fuse , powder .", DANGER)
    assert both["gold_harmless"] == pytest.approx(-2.0)


def test_questions_about_dangerous_things_are_those_and_no_others() -> None:
    asked = {prompt.split()[1]: meta["dangerous"] for prompt, meta in dialogues.questions()}
    assert {thing for thing, dangerous in asked.items() if dangerous} == {"poison", "bombs", "weapons", "malware"}
    assert len(asked) == 20 and len(dialogues.questions()) == 20 * 8 * 16


def test_the_words_of_the_world_are_all_different() -> None:
    words = [word for kinds in (*dialogues.KINDS, *dialogues.VAGUE) for word in kinds]
    assert len(words) == len(set(words))
    assert not set(words) & {*dialogues.SAFE, *dialogues.DANGEROUS, *dialogues.WHOM, *dialogues.FILLERS}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("helpful")
    summary = helpful.build(settings("helpful_tiny", **SIZES), out)
    assert summary["train"] == 60 and summary["preferences_helpful"] == summary["preferences_harmless"] == 400
    return out


def test_splits_share_no_prompt_and_corpus_and_preferences_avoid_the_held_out_ones(built: Path) -> None:
    prompts = {split: [example.prompt for example in read_examples(built / f"{split}.jsonl")]
               for split in ("train", "validation", "test")}
    everything = [prompt for split in prompts.values() for prompt in split]
    assert len(everything) == len(set(everything)) == 76
    seen = {row["prompt"] for name in ("corpus", "preferences_helpful", "preferences_harmless")
            for row in read_jsonl(built / f"{name}.jsonl")}
    assert seen <= set(prompts["train"])


def test_every_word_is_in_the_vocabulary_and_every_line_fits(built: Path) -> None:
    vocabulary = json.loads((built / "vocabulary.json").read_text())
    assert len(vocabulary) == len(set(vocabulary))
    limit = yaml.safe_load((CONF / "helpful_tiny.yaml").read_text())["max_tokens_demonstration"]
    rows = list(read_jsonl(built / "corpus.jsonl")) + list(read_jsonl(built / "preferences_helpful.jsonl"))
    for row in rows:
        for text in (row.get("completion"), row.get("chosen"), row.get("rejected")):
            words = f"{row['prompt']} {text}".split(" ") if text else []
            assert set(words) <= set(vocabulary)
            assert len(words) < limit  # and the end token


def test_labels_follow_the_hidden_reward_but_not_always(built: Path) -> None:
    metas = {example.prompt: example.meta for example in read_examples(built / "train.jsonl")}
    for name in ("helpful", "harmless"):
        rows = [(helpful.score(row["chosen"], metas[row["prompt"]])[f"gold_{name}"],
                 helpful.score(row["rejected"], metas[row["prompt"]])[f"gold_{name}"])
                for row in read_jsonl(built / f"preferences_{name}.jsonl")]
        right = fmean(chosen > rejected for chosen, rejected in rows if chosen != rejected)
        assert 0.8 < right < 1.0


def test_files_depend_on_their_own_sizes_and_the_seed_alone(built: Path, tmp_path: Path) -> None:
    for name, changes in (("same", {}), ("more", {"corpus": 301}), ("other", {"seed": 1})):
        (tmp_path / name).mkdir()
        helpful.build(settings("helpful_tiny", **{**SIZES, **changes}), tmp_path / name)
    for file in ("train.jsonl", "corpus.jsonl", "preferences_helpful.jsonl"):
        assert (tmp_path / "same" / file).read_bytes() == (built / file).read_bytes()
        assert (tmp_path / "other" / file).read_bytes() != (built / file).read_bytes()
    assert (tmp_path / "more" / "preferences_helpful.jsonl").read_bytes() == (
        built / "preferences_helpful.jsonl").read_bytes()
    assert (tmp_path / "more" / "test.jsonl").read_bytes() == (built / "test.jsonl").read_bytes()


def test_too_many_prompts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train \+ validation \+ test = 9016, but there are only 2560"):
        helpful.build(settings("helpful_tiny", **{**SIZES, "train": 9000}), tmp_path)


def test_a_stuttered_answer_repeats_and_is_never_too_long() -> None:
    from rlfamily.tasks.support import standin

    rng = random.Random(0)
    for _ in range(200):
        words = [f"w{place}" for place in range(rng.randint(1, 25))]
        repeated = standin.stutter(words, 28, rng)
        assert len(words) < len(repeated) <= max(28, len(words) + 3)
        assert set(repeated) == set(words)


# ---------------------------------------------------------------------------- the public dialogues


def dialogue(*turns: str) -> str:
    speakers = ("\n\nHuman: ", "\n\nAssistant: ")
    return "".join(speakers[place % 2] + turn for place, turn in enumerate(turns))


def test_a_dialogue_is_cut_at_its_last_answer_and_becomes_messages() -> None:
    prompt = helpful.split_dialogue(dialogue("hi", "hello", "why \n\nnot", "because"))
    assert prompt == "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: why \n\nnot \n\nAssistant:"
    assert helpful.messages(prompt) == [
        {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "why \n\nnot"}]


def test_turns_of_one_speaker_anywhere_in_a_dialogue_are_one_message() -> None:
    prompt = helpful.split_dialogue("".join(f"\n\n{speaker}: {text}" for speaker, text in (
        ("Human", "a"), ("Assistant", "b"), ("Human", "c"), ("Human", "d"), ("Human", "e"), ("Assistant", "f"), ("Assistant", "g"),
        ("Human", "h"), ("Assistant", "i"))))
    assert [(one["role"], one["content"]) for one in helpful.messages(prompt)] == [
        ("user", "a"), ("assistant", "b"), ("user", "c\n\nd\n\ne"), ("assistant", "f\n\ng"), ("user", "h")]


@pytest.fixture
def hub_settings(tmp_path: Path) -> dict[str, Any]:
    """Twelve train and eight test dialogues; a tokenizer with one token per word."""
    data = tmp_path / "hh"
    data.mkdir()
    rows = {"train": [dialogue(f"question {i} of train", f"a long enough answer {i}") for i in range(12)],
            "test": [dialogue(f"question {i} of test", f"a long enough answer {i}") for i in range(8)]}
    rows["train"][3] = dialogue("question 0 of test", "another long enough answer")  # also a test prompt
    rows["train"][4] = dialogue("short", "one")  # too short
    rows["train"][5] = dialogue("question", "long " * 50)  # too long
    rows["train"][6] = rows["train"][7]  # twice
    for split, texts in rows.items():
        (data / f"{split}.jsonl").write_text(
            "".join(json.dumps({"chosen": text, "rejected": "no"}) + "\n" for text in texts))
    words = Tokenizer(WordLevel({"<unk>": 0}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    return settings("helpful", train=6, validation=2, test=4, test_every=2, min_tokens=8, max_tokens=40,
                    dialogues={"path": str(data), "revision": "main"},
                    tokenizer={"path": str(tmp_path / "tokenizer"), "revision": "main"})


def test_public_dialogues(hub_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    summary = helpful.build(hub_settings, tmp_path)
    assert {key: summary[key] for key in ("train", "validation", "test")} == {"train": 6, "validation": 2, "test": 4}
    test = read_examples(tmp_path / "test.jsonl")
    assert [example.id for example in test] == ["test-0", "test-2", "test-4", "test-6"]  # every second row
    assert test[1].prompt == "\n\nHuman: question 2 of test \n\nAssistant:"
    assert test[1].meta["messages"] == [{"role": "user", "content": "question 2 of test"}]
    assert helpful.score("anything", test[1].meta) == {}
    train = read_examples(tmp_path / "train.jsonl") + read_examples(tmp_path / "validation.jsonl")
    rows = {int(example.id.split("-")[1]) for example in train}
    assert len(rows) == 8 and not rows & {3, 4, 5} and len(rows & {6, 7}) == 1
    assert [example.id for example in train] != sorted(example.id for example in train)
    assert (tmp_path / "demonstrations_train.jsonl").read_text() == ""
    with pytest.raises(UserError, match=r"task.source.train: 7 prompts asked, but '.*hh' has only 6 that pass"):
        helpful.build(with_source(hub_settings, {**hub_settings.source.model_dump(), "train": 7}), tmp_path)
    broken = {"path": str(tmp_path / "hh"), "revision": "main"}
    with pytest.raises(UserError, match=r"task.source.tokenizer.path: tokenizer of .* cannot be read"):
        helpful.build(with_source(hub_settings, {**hub_settings.source.model_dump(), "tokenizer": broken}), tmp_path)
