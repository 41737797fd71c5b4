"""The stand-in: files, disjoint splits, determinism, solutions that score, words that a tokenizer can hold."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from rlfamily import rewards, tasks
from rlfamily.errors import UserError
from rlfamily.examples import Demonstration, Example, read_demonstrations, read_examples
from rlfamily.rewards import verifiable
from rlfamily.tasks import math
from rlfamily.tasks.support.math_problems import Generator, Problem, solve

CONF = Path(__file__).resolve().parents[2] / "conf" / "task"
FILES = ["corpus.jsonl", "demonstrations_train.jsonl", "demonstrations_validation.jsonl", "test.jsonl", "train.jsonl",
         "validation.jsonl", "vocabulary.json"]
BENCHMARKS = ["AMC2023", "Minerva Math", "Olympiad-Bench", "AIME2024", "AIME2025"]
SMALL = {"train": 100, "validation": 25, "corpus": 1000}


def settings(**source: Any) -> dict[str, Any]:
    """conf/task/math_tiny.yaml with a small source."""
    content = yaml.safe_load((CONF / "math_tiny.yaml").read_text())
    return {**content, "source": {**content["source"], **SMALL, **source}}


def built(out: Path, **source: Any) -> Path:
    out.mkdir()
    math.build(math.Config.model_validate(settings(**source)).data, out)
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("data") / "task")


def worth(prompt: str) -> int:
    """The value of the prompt's problem, by Python."""
    expression = prompt.removeprefix("compute ").removesuffix(" :")
    assert re.fullmatch(r"\d+( [+*-] \d+)+", expression)
    return int(eval(expression))  # of a string that was just matched


@pytest.mark.parametrize("name", ["math", "math_tiny"])
def test_shipped_settings_are_valid(name: str) -> None:
    config = math.Config.model_validate(yaml.safe_load((CONF / f"{name}.yaml").read_text()))
    assert tasks.get(config.kind) is math
    assert set(config.data.model_dump()) == {"kind", "template", "check_seconds", "source"}
    assert rewards.get(config.reward.kind).Config is type(config.reward)


def test_files_counts_and_benchmarks(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == FILES
    rows = {split: read_examples(folder / f"{split}.jsonl") for split in ("train", "validation", "test")}
    for split, examples in rows.items():
        assert [example.id for example in examples] == [f"{split}-{place}" for place in range(len(examples))]
    assert (len(rows["train"]), len(rows["validation"])) == (100, 25)
    assert Counter(example.meta["level"] for example in rows["train"]) == dict.fromkeys(range(1, 6), 20)
    levels = settings()["source"]["levels"]
    counts = Counter((example.meta["benchmark"], example.meta["level"]) for example in rows["test"])
    assert counts == {(level["benchmark"], place): level["test"] for place, level in enumerate(levels, start=1)}
    assert [level["benchmark"] for level in levels] == BENCHMARKS
    assert not any("benchmark" in example.meta for example in rows["train"] + rows["validation"])
    assert {example.meta["benchmark"] for example in rows["test"][:10]} == set(BENCHMARKS)  # a part has them all
    for split in ("demonstrations_train", "demonstrations_validation"):
        assert read_demonstrations(folder / f"{split}.jsonl") == []


def test_the_right_answer_is_pythons(folder: Path) -> None:
    for split in ("train", "test"):
        for example in read_examples(folder / f"{split}.jsonl"):
            assert example.meta["answer"] == str(worth(example.prompt))


def test_splits_share_no_problem(folder: Path) -> None:
    splits: list[list[str]] = [[row.prompt for row in read_examples(folder / f"{name}.jsonl")]
                               for name in ("train", "validation", "test")]
    assert all(len(set(split)) == len(split) for split in splits)
    splits.append([row.prompt for row in read_demonstrations(folder / "corpus.jsonl")])
    for i, first in enumerate(splits):
        for second in splits[i + 1:]:
            assert not set(first) & set(second)


def corpus(folder: Path) -> tuple[list[Demonstration], list[Demonstration]]:
    """The labelled lines and the plain ones."""
    rows = read_demonstrations(folder / "corpus.jsonl")
    labelled = [row for row in rows if "\\boxed{" in row.completion]
    return labelled, [row for row in rows if row not in labelled]


def test_the_corpus_is_the_stated_mixture(folder: Path) -> None:
    source = settings()["source"]
    labelled, plain = corpus(folder)
    assert all(row.completion.startswith("step1: ") for row in labelled)
    assert all("step" not in row.completion and " so " in row.completion for row in plain)
    answers = [(row, row.completion.split()[-1 if row in plain else -2]) for row in labelled + plain]
    wrong = sum(int(answer) != worth(row.prompt) for row, answer in answers)
    # 1000 lines: four standard errors are at most 0.06.
    assert len(plain) / 1000 == pytest.approx(source["corpus_plain_fraction"], abs=0.06)
    tricky = sum(level["tricky"] for level in source["levels"]) / len(source["levels"])
    assert wrong / 1000 == pytest.approx(tricky * source["corpus_error_fraction"], abs=0.06)


def test_every_step_of_the_corpus_is_sound_arithmetic(folder: Path) -> None:
    """Mistaken lines take the operations in the wrong order; each operation by itself is right."""
    for row in read_demonstrations(folder / "corpus.jsonl"):
        steps = re.findall(r"(\d+) ([+*-]) (\d+) = (\d+)", row.completion)
        assert len(steps) == len(re.findall(r"[+*-]", row.prompt))
        assert all(eval(f"{a} {sign} {b}") == int(value) for a, sign, b, value in steps)


def test_scores(folder: Path) -> None:
    labelled, plain = corpus(folder)
    for row in labelled[:200]:
        right = row.completion.split()[-2] == str(worth(row.prompt))
        assert math.score(row.completion, {"answer": str(worth(row.prompt))}) == {"format": 1.0, "valid": float(right)}
    for row in plain[:20]:
        assert math.score(row.completion, {"answer": str(worth(row.prompt))}) == {"format": 0.0, "valid": 0.0}


def test_the_rewards_weights() -> None:
    class Given:
        def score(self, response: str, meta: dict[str, Any]) -> dict[str, float]:
            return math.score(response, meta)

    content = yaml.safe_load((CONF / "math_tiny.yaml").read_text())["reward"]
    reward = rewards.load(rewards.get("correctness").Config(**{**content, "correct": 1.0, "format": 0.25}), math.score, {}, "cpu", 1)  # type: ignore[arg-type]
    examples = [Example(str(place), "compute 3 + 4 :", {"answer": "7"}) for place in range(4)]
    scored = reward.score(examples, [r"\boxed{ 7 }", r"\boxed{ 8 }", "so 7", r"\boxed{\frac{14}{2}}"])
    assert [row.reward for row in scored] == [1.25, 0.25, 0.0, 1.25]
    assert [row.parts["valid"] for row in scored] == [1.0, 0.0, 0.0, 1.0]
    with pytest.raises(ValueError, match="3 responses to 4 examples"):
        reward.score(examples, ["", "", ""])


def test_every_word_is_in_the_vocabulary_and_lengths_fit(folder: Path) -> None:
    vocabulary = json.loads((folder / "vocabulary.json").read_text())
    assert len(set(vocabulary)) == len(vocabulary)
    content = settings()
    for row in read_demonstrations(folder / "corpus.jsonl"):
        words = f"{row.prompt} {row.completion}".split(" ")
        assert set(words) <= set(vocabulary)
        assert len(words) + 1 <= content["max_tokens_rollout"]
    for example in read_examples(folder / "test.jsonl"):
        assert set(example.prompt.split(" ")) <= set(vocabulary)


def test_labels_stand_where_step_segmentation_looks(folder: Path) -> None:
    label = re.compile(r"^[ \t]*\**step\s*(\d+)\s*\**\s*[:.)]", re.I | re.M)  # the paper's marks, at starts of lines
    for row in corpus(folder)[0][:100]:
        found = [int(number) for number in label.findall(row.completion)]
        assert found == list(range(1, len(re.findall(r"[+*-]", row.prompt)) + 1))


def test_same_settings_give_the_same_bytes_and_another_seed_others(tmp_path: Path, folder: Path) -> None:
    again, other = built(tmp_path / "again"), built(tmp_path / "other", seed=1)
    for name in FILES:
        assert (again / name).read_bytes() == (folder / name).read_bytes()
    assert (other / "train.jsonl").read_bytes() != (folder / "train.jsonl").read_bytes()


def test_held_out_problems_stay_when_more_training_data_is_asked(tmp_path: Path, folder: Path) -> None:
    more = built(tmp_path / "more", train=150, corpus=100)
    for name in ("test.jsonl", "validation.jsonl"):
        assert (more / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("tricky", [0.0, 1.0])
def test_tricky_problems_are_those_that_the_wrong_order_misses(tricky: float) -> None:
    generator = Generator(99, 0)
    for _ in range(50):
        problem = generator.new(3, 9, tricky, set())
        right, wrong = (solve(problem, left_to_right=way)[-1].value for way in (False, True))
        assert right == eval(str(problem)) and 0 <= right <= 99
        assert (generator.mistaken(problem) is not None) == bool(tricky)
        assert wrong != right or not tricky


def test_left_to_right_is_left_to_right() -> None:
    problem = Problem((3, 4, 2, 5), ("+", "*", "-"))
    assert str(problem) == "3 + 4 * 2 - 5"
    assert [str(step) for step in solve(problem, False)] == ["4 * 2 = 8", "3 + 8 = 11", "11 - 5 = 6"]
    assert [str(step) for step in solve(problem, True)] == ["3 + 4 = 7", "7 * 2 = 14", "14 - 5 = 9"]


def test_too_few_problems_is_one_line(tmp_path: Path) -> None:
    level = {"benchmark": "AMC2023", "operations": 1, "max_operand": 2, "tricky": 0.0, "test": 3}
    with pytest.raises(UserError, match=r"task\.source: no more problems with 1 operations on numbers up to 2") as error:
        math.build(math.Data.model_validate({"kind": "math", "template": "{problem}", "check_seconds": 1.0, "source": settings(levels=[level])["source"]}), tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", [
    {"template": "compute"}, {"template": "{problem} {problem}"}, {"eval_prompts": 197}, {"kind": "countdown"},
    {"source": {**settings()["source"], "levels": []}}, {"source": {**settings()["source"], "corpus_error_fraction": 1.1}},
    {"reward": {"kind": "correctness", "models": {}, "correct": 1.0, "format": -0.1}},
    {"reward": {"kind": "clip", "models": {}, "style": 1.0, "context": 1.0, "references": 3, "reference_images": None}},
])
def test_wrong_settings_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        math.Config.model_validate({**settings(), **change})


def test_a_reward_is_chosen_by_its_name() -> None:
    """Any whose needs the task gives; the paper's is not the only one."""
    chosen = math.Config.model_validate({**settings(), "reward": {"kind": "verifiable", "models": {}}})
    assert chosen.reward == verifiable.Config(kind="verifiable", models={})


def test_scoring_never_raises() -> None:
    rng = random.Random(0)
    pieces = ["\\boxed{", "}", "{", "\\", "7", "^", "\n", "\\frac", "é", "\x00"]
    for _ in range(300):
        response = "".join(rng.choices(pieces, k=rng.randint(0, 6)))
        assert set(math.score(response, {"answer": "7"})) == {"format", "valid"}
