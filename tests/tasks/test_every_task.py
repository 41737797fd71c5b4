"""What every task that is found here must do, whoever wrote it: score anything, know a right answer, keep splits apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlfamily import composing, tasks
from rlfamily.config import build
from rlfamily.tasks.support.puzzles import solutions

TINY = [name for name in composing.choices("task") if name.endswith("_tiny")]
ODD = {
    "empty": "", "blanks": " \n\t", "huge": "a b " * 50_000, "not Latin": "答案是四十二。 الجواب ٤٢ 🎉\u202e\u200b",
    "a lone surrogate": "\ud800 x", "a null character": "a\x00b", "markup": "<answer></answer><script>\\boxed{",
    "an open box": "\\boxed{" * 2000, "a tower": "<answer>9**9**9**9</answer> \\boxed{9^{9^{9^{9}}}}",
    "no number": "<answer>1/0</answer> \\boxed{\\frac{1}{0}} nan inf", "code": "<answer>__import__('os').abort()</answer>",
    "many answers": "<answer>1</answer>\\boxed{1}" * 3000, "deep": "(" * 20_000 + ")" * 20_000,
}
# How a right response is written, for tasks whose check says what is right.
RIGHT = {
    "countdown": lambda meta: next(f"<answer> {found.expression} </answer>"
                                   for found in solutions(tuple(meta["nums"]), 10**6) if found.value == meta["target"]),
    "math": lambda meta: f"\\boxed{{{meta['answer']}}}",
}


@pytest.fixture(scope="module", params=TINY)
def files(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """The task's module, and its files at tiny scale."""
    data, out = build([f"task={request.param}", "algorithm.warm_start=base"]).task.data, tmp_path_factory.mktemp("task")
    module = tasks.get(data.kind)
    module.build(data, out)
    return module, out


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_task_has_a_tiny_world() -> None:
    assert {build([f"task={name}", "algorithm.warm_start=base"]).task.kind for name in TINY} == set(tasks.names())


@pytest.mark.parametrize("odd", ODD)
def test_any_text_has_a_score(files: tuple[Any, Path], odd: str) -> None:
    module, out = files
    for example in rows(out / "test.jsonl")[:3]:
        told = module.score(ODD[odd], example["meta"])
        assert all(isinstance(value, float) for value in told.values())
        assert all(told[name] in (0.0, 1.0) for name in ("format", "valid") if name in told)
        assert not told.get("valid"), "this is no right answer"


def test_a_right_answer_scores_full(files: tuple[Any, Path]) -> None:
    module, out = files
    name = module.__name__.rpartition(".")[2]
    if "valid" not in module.GIVES:
        assert name not in RIGHT
        return
    assert name in RIGHT, f"say in RIGHT how a right response to a prompt of '{name}' is written"
    for split in ("train", "validation", "test"):
        for example in rows(out / f"{split}.jsonl")[:20]:
            assert module.score(RIGHT[name](example["meta"]), example["meta"]) == {"format": 1.0, "valid": 1.0}


def test_splits_do_not_meet(files: tuple[Any, Path]) -> None:
    """Not even where case and blanks differ."""
    _, out = files
    prompts = {split: {" ".join(row["prompt"].casefold().split()) for row in rows(out / f"{split}.jsonl")}
               for split in ("train", "validation", "test")}
    assert all(prompts.values())
    for one, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
        assert not prompts[one] & prompts[other], f"{one} and {other} share prompts"


def test_what_there_is_to_imitate_is_said(files: tuple[Any, Path]) -> None:
    module, out = files
    assert bool(rows(out / "demonstrations_train.jsonl")) == ("demonstrations" in module.HAS)
    assert (out / "logged_train.jsonl").exists() == ("logged" in module.HAS)
