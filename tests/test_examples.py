"""Which prompts a run takes of a training split."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlfamily.config import build
from rlfamily.errors import UserError
from rlfamily.examples import Example, FewerPrompts, select_prompts
from rlfamily.records import write_jsonl


def write_prompts(folder: Path, prompts: list[str]) -> None:
    write_jsonl(folder / "train.jsonl", [{"id": f"train-{place}", "prompt": prompt, "meta": {}}
                                         for place, prompt in enumerate(prompts)])


def short(example: Example) -> bool:
    return len(example.prompt) < 9


@pytest.mark.parametrize(("fewer", "count", "expected"), [
    ("refuse", 5, [1] * 5), ("take", 5, [1] * 5), ("repeat", 5, [1] * 5), ("take", 3, [1] * 3),
    ("take", 13, [1] * 5), ("repeat", 13, [3, 3, 3, 2, 2]), ("refuse", 6, None),
])
def test_what_is_taken_when_there_are_fewer(
    tmp_path: Path, fewer: FewerPrompts, count: int, expected: list[int] | None
) -> None:
    write_prompts(tmp_path, [f"p{place}" for place in range(5)])
    if expected is None:
        with pytest.raises(UserError, match="6 prompts asked for, train split has 5: lower.*fewer_prompts=repeat or take"):
            select_prompts(tmp_path, count, 0, fewer, short)
        return
    chosen, left_out = select_prompts(tmp_path, count, 0, fewer, short)
    prompts = [example.prompt for example in chosen]
    assert sorted((prompts.count(prompt) for prompt in set(prompts)), reverse=True) == expected
    assert len({example.id for example in chosen}) == len(chosen) and left_out == 0


@pytest.mark.parametrize("fewer", ["refuse", "take", "repeat"])
def test_prompts_that_do_not_fit_are_left_out_and_the_others_keep_their_order(tmp_path: Path, fewer: FewerPrompts) -> None:
    prompts = [f"p{place}" for place in range(9)]
    write_prompts(tmp_path, prompts)
    order = [example.prompt for example in select_prompts(tmp_path, 9, 3, fewer, short)[0]]
    write_prompts(tmp_path, [prompt if prompt not in order[1:3] else prompt * 9 for prompt in prompts])
    assert [example.prompt for example in select_prompts(tmp_path, 1, 3, fewer, short)[0]] == order[:1]
    chosen, left_out = select_prompts(tmp_path, 5, 3, fewer, short)
    assert ([example.prompt for example in chosen], left_out) == ([order[0], *order[3:7]], 2)
    if fewer == "refuse":
        with pytest.raises(UserError, match="8 prompts asked for, train split has 7 that leave room .* and 2 others"):
            select_prompts(tmp_path, 8, 3, fewer, short)
    else:
        chosen, left_out = select_prompts(tmp_path, 15, 3, fewer, short)
        assert (len(chosen), left_out) == ({"take": 7, "repeat": 15}[fewer], 2)
        assert {example.prompt for example in chosen} == {order[0], *order[3:]}


@pytest.mark.parametrize("fewer", ["refuse", "take", "repeat"])
def test_a_split_of_which_none_fits_is_refused(tmp_path: Path, fewer: FewerPrompts) -> None:
    write_prompts(tmp_path, ["p" * 9])
    with pytest.raises(UserError, match="train split has 0 that leave room for a response, and 1 others"):
        select_prompts(tmp_path, 1, 0, fewer, short)


def test_mathematics_takes_what_there_is_of_its_problems() -> None:
    assert build(["task=math", "model=qwen25_math_7b", "algorithm=grpo"]).task.fewer_prompts == "take"
