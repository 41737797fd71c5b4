"""Prompts that leave no room for a response are refused before anything is trained, each by the limit it meets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from small import SMALL, World, build_world, place, stage

from rlfamily.config import build
from rlfamily.errors import UserError
from rlfamily.evaluation.lengths import write_lengths
from rlfamily.models import policy, scratch
from rlfamily.plan import stages
from rlfamily.records import read_jsonl, write_jsonl
from rlfamily.rollout.collect import encode_prompt
from rlfamily.stages.kinds import lengths

LIMITS = {"rollout": 40, "evaluation": 44, "demonstration": 48, "prompts": 6}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(tmp_path_factory.mktemp("world"))


def with_long(data: Path, folder: Path, split: str, index: int, words: int, field: str = "prompt") -> Path:
    """The data with one text made `words` long (a token a word)."""
    shutil.copytree(data, folder)
    rows = list(read_jsonl(folder / f"{split}.jsonl"))
    rows[index][field] = " ".join(["3"] * words)
    write_jsonl(folder / f"{split}.jsonl", rows)
    return folder


def measured(world: World, folder: Path, data: Path, model: Path | None, **limits: Any) -> dict[str, Any]:
    return write_lengths(place(folder), data, model, **LIMITS | limits)


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize(("split", "index", "words", "line"), [
    ("test", 5, 44, "task.max_tokens_evaluation=44: 1 of 6 test prompts leave no room for a response (that of test-5 has "
                    "44 tokens): raise it"),
    ("test", 5, 0, "data: the prompt of test-5 has no tokens"),
    ("train", 60, 0, "data: the prompt of train-60 has no tokens"),
    ("validation", 3, 44, "task.max_tokens_evaluation=44: 1 of 6 validation prompts leave no room"),
])
def test_a_long_prompt_names_its_limit(
    world: World, tmp_path: Path, split: str, index: int, words: int, line: str, published: bool
) -> None:
    model = world.base if published else None
    data = with_long(world.data, tmp_path / "data", split, index, words)
    if published and split == "validation":  # nothing is drawn from it: a published model has no gate
        assert measured(world, tmp_path, data, model)["validation"]["longest_prompt"] == words
        return
    with pytest.raises(UserError) as caught:
        measured(world, tmp_path, data, model)
    assert line in str(caught.value) and "\n" not in str(caught.value)
    fine = with_long(world.data, tmp_path / "fine", split, index, max(1, words - 1))
    measured(world, tmp_path, fine, model)


def test_what_is_not_drawn_from_may_be_long(world: World, tmp_path: Path) -> None:
    """A test prompt beyond those evaluated, and validation prompts beyond the gate's."""
    data = with_long(with_long(world.data, tmp_path / "a", "test", 6, 99), tmp_path / "b", "validation", 6, 99)
    measured(world, tmp_path, data, None)
    with pytest.raises(UserError, match="99 tokens"):
        measured(world, tmp_path, data, None, prompts=7)
    with pytest.raises(UserError, match="task.eval_prompts=17, but the test split has 16 prompts"):
        measured(world, tmp_path, data, None, prompts=17)


def test_training_prompts_are_counted_and_refused_when_none_has_room(world: World, tmp_path: Path) -> None:
    data = with_long(world.data, tmp_path / "a", "train", 60, 40)
    found = measured(world, tmp_path, data, None)["train"]
    assert found == {"rows": 64, "longest_prompt": 40, "limit": 40, "left_out": 1}
    with pytest.raises(UserError, match="task.max_tokens_rollout=2: 64 of 64 train prompts leave no room"):
        measured(world, tmp_path, data, None, rollout=2)


def test_demonstrations_are_counted_and_refused_when_none_has_room(world: World, tmp_path: Path) -> None:
    data = with_long(with_long(world.data, tmp_path / "a", "demonstrations_train", 0, 48), tmp_path / "b",
                     "demonstrations_train", 1, 48, "completion")
    found = measured(world, tmp_path, data, None)["demonstrations_train"]
    assert {name: found[name] for name in ("rows", "longest_prompt", "left_out", "cut")} == {
        "rows": 24, "longest_prompt": 48, "left_out": 1, "cut": 1}
    with pytest.raises(UserError, match="task.max_tokens_demonstration=2: the prompts of all 24 demonstrations leave no"):
        measured(world, tmp_path, data, None, demonstration=2)


def test_both_tokenizers_measure_the_same(world: World, tmp_path: Path) -> None:
    """The one of the vocabulary, before there is a model, and the one that the base model is saved with."""
    one, two = (measured(world, tmp_path, world.data, model, prompts=16) for model in (None, world.base))
    assert one | {"validation": None} == two | {"validation": None}
    vocabulary = json.loads((world.data / "vocabulary.json").read_text())
    prompts = [row["prompt"] for row in read_jsonl(world.data / "train.jsonl")]
    for tokenizer in (scratch.train_tokenizer(vocabulary), policy.load_tokenizer(world.base)):
        assert one["train"]["longest_prompt"] == max(len(encode_prompt(tokenizer, prompt)) for prompt in prompts)


def test_the_stage_of_the_shipped_settings_passes(world: World, tmp_path: Path) -> None:
    node = next(node for node in stages(build(SMALL), ["train"])["train"].after)
    folder, summary = stage(tmp_path, "lengths", node.config, {"data": world.data})
    assert isinstance(node.config, lengths.Config) and summary["test"]["rows"] == node.config.eval_prompts
    assert json.loads((folder / "lengths.json").read_text()) == summary
