"""The generated task: files, disjoint splits, determinism, traces that score, words that a tokenizer can hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from rlfamily import tasks
from rlfamily.errors import UserError
from rlfamily.examples import Demonstration, Example, read_demonstrations, read_examples
from rlfamily.tasks import countdown

CONF = Path(__file__).resolve().parents[2] / "conf" / "task"
FILES = ["corpus.jsonl", "demonstrations_train.jsonl", "demonstrations_validation.jsonl", "test.jsonl", "train.jsonl",
         "validation.jsonl", "vocabulary.json"]
SMALL = {"train": 200, "validation": 40, "test": 50, "demonstrations_train": 60, "demonstrations_validation": 20,
         "corpus": 800, "corpus_plain_fraction": 0.5, "corpus_error_fraction": 0.1}


def settings(**source: Any) -> dict[str, Any]:
    """conf/task/countdown_tiny.yaml with a small source."""
    content = yaml.safe_load((CONF / "countdown_tiny.yaml").read_text())
    return {**content, "eval_prompts": 10, "source": {**content["source"], **SMALL, **source}}


def built(out: Path, **source: Any) -> Path:
    out.mkdir()
    countdown.build(countdown.Config.model_validate(settings(**source)).data, out)
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("data") / "task")


def puzzle(row: Example | Demonstration) -> tuple[tuple[int, ...], int]:
    """Read the puzzle back from a tiny prompt: use 3 7 12 to make 22 :"""
    words = row.prompt.split()
    return tuple(sorted(map(int, words[1:words.index("to")]))), int(words[-2])


def meta(row: Demonstration) -> dict[str, Any]:
    numbers, target = puzzle(row)
    return {"nums": list(numbers), "target": target}


@pytest.mark.parametrize("name", ["countdown", "countdown_tiny"])
def test_shipped_settings_are_valid(name: str) -> None:
    config = countdown.Config.model_validate(yaml.safe_load((CONF / f"{name}.yaml").read_text()))
    assert tasks.get(config.kind) is countdown
    assert set(config.data.model_dump()) == {"kind", "template", "nums_format", "source"}


def test_files_and_counts(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == FILES
    for split in ("train", "validation", "test"):
        examples = read_examples(folder / f"{split}.jsonl")
        assert len(examples) == SMALL[split]
        assert [example.id for example in examples] == [f"{split}-{i}" for i in range(len(examples))]
    for split in ("demonstrations_train", "demonstrations_validation", "corpus"):
        assert len(read_demonstrations(folder / f"{split}.jsonl")) == SMALL[split]


def test_prompt_shows_its_own_meta(folder: Path) -> None:
    for example in read_examples(folder / "train.jsonl"):
        assert puzzle(example) == (tuple(sorted(example.meta["nums"])), example.meta["target"])
        assert example.prompt == f"use {' '.join(map(str, example.meta['nums']))} to make {example.meta['target']} :"


def test_splits_share_no_puzzle(folder: Path) -> None:
    splits = [[puzzle(row) for row in read_examples(folder / f"{name}.jsonl")]
              for name in ("train", "validation", "test")]
    splits += [[puzzle(row) for row in read_demonstrations(folder / f"{name}.jsonl")]
               for name in ("demonstrations_train", "demonstrations_validation")]
    assert all(len(set(split)) == len(split) for split in splits)
    splits.append([puzzle(row) for row in read_demonstrations(folder / "corpus.jsonl")])
    for i, first in enumerate(splits):
        for second in splits[i + 1:]:
            assert not set(first) & set(second)


def test_every_demonstration_scores_valid(folder: Path) -> None:
    for name in ("demonstrations_train", "demonstrations_validation"):
        for row in read_demonstrations(folder / f"{name}.jsonl"):
            assert countdown.score(row.completion, meta(row)) == {"format": 1.0, "valid": 1.0}


def test_corpus_is_the_stated_mixture(folder: Path) -> None:
    rows = read_demonstrations(folder / "corpus.jsonl")
    tagged = [row for row in rows if row.completion.endswith("</answer>")]
    assert all("<answer>" not in row.completion for row in rows if row not in tagged)
    # Put tags around the plain answers, to check them alike.
    answers = [row.completion.replace("so", "<answer>").removesuffix(" </answer>") + " </answer>" for row in rows]
    scores = [countdown.score(answer, meta(row)) for answer, row in zip(answers, rows, strict=True)]
    assert all(score["format"] for score in scores)
    # 800 lines: five standard errors are 0.09 for the tagged half and 0.053 for the wrong tenth.
    assert len(tagged) / len(rows) == pytest.approx(0.5, abs=0.09)
    assert sum(not score["valid"] for score in scores) / len(rows) == pytest.approx(0.1, abs=0.053)


def test_no_corpus_line_is_wrong_when_none_is_asked(tmp_path: Path) -> None:
    out = built(tmp_path / "d", corpus_error_fraction=0.0, corpus_plain_fraction=0.0)
    rows = read_demonstrations(out / "corpus.jsonl")
    assert all(countdown.score(row.completion, meta(row))["valid"] for row in rows)


def test_every_word_is_in_the_vocabulary_and_lengths_fit(folder: Path) -> None:
    vocabulary = json.loads((folder / "vocabulary.json").read_text())
    assert len(set(vocabulary)) == len(vocabulary) and set(map(str, range(1, 101))) <= set(vocabulary)
    content = settings()
    for name in ("demonstrations_train", "corpus"):
        for row in read_demonstrations(folder / f"{name}.jsonl"):
            words = f"{row.prompt} {row.completion}".split(" ")
            assert set(words) <= set(vocabulary)
            assert len(words) + 1 <= min(content["max_tokens_demonstration"], content["max_tokens_rollout"])
    for example in read_examples(folder / "test.jsonl"):
        assert set(example.prompt.split(" ")) <= set(vocabulary)


def test_same_settings_give_the_same_bytes_and_another_seed_others(tmp_path: Path, folder: Path) -> None:
    again, other = built(tmp_path / "again"), built(tmp_path / "other", seed=1)
    for name in FILES:
        assert (again / name).read_bytes() == (folder / name).read_bytes()
    assert (other / "train.jsonl").read_bytes() != (folder / "train.jsonl").read_bytes()


def test_held_out_puzzles_stay_when_more_training_data_is_asked(tmp_path: Path, folder: Path) -> None:
    more = built(tmp_path / "more", train=300, corpus=900)
    for name in ("test.jsonl", "validation.jsonl"):
        assert (more / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize(("change", "message"), [
    ({"max_operand": 2, "max_value": 6}, r"task\.source: only \d+ different puzzles found, too few for test=50"),
    # Two numbers from {1, 2} make seven puzzles: the splits take them all.
    ({"numbers": 2, "max_operand": 2, "max_value": 4, "test": 3, "validation": 1, "train": 1,
      "demonstrations_train": 1, "demonstrations_validation": 1}, "leave no puzzles for the corpus"),
])
def test_too_few_puzzles_is_one_line(tmp_path: Path, change: dict[str, int], message: str) -> None:
    data = countdown.Data.model_validate({key: value for key, value in settings(**change).items()
                                          if key in countdown.Data.model_fields})
    with pytest.raises(UserError, match=message) as error:
        countdown.build(data, tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", [
    {"template": "use {nums}"}, {"template": "{nums} {target} {other}"}, {"eval_prompts": 51}, {"nums_format": "csv"},
    {"surprise": 1}, {"source": settings(numbers=5)["source"]}, {"prompt_fraction": 0.0}, {"kind": "sudoku"}, {"eval_draws": "4"},
])
def test_wrong_settings_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        countdown.Config.model_validate({**settings(), **change})


def test_unknown_task_names_the_nearest() -> None:
    assert "countdown" in tasks.names() and "arithmetic" not in tasks.names()
    with pytest.raises(UserError, match="did you mean 'countdown'"):
        tasks.get("countdwn")
