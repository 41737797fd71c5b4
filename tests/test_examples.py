"""Which prompts a run takes of a training split."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlfamily.config import build
from rlfamily.errors import UserError
from rlfamily.examples import FewerPrompts, select_prompts
from rlfamily.records import write_jsonl


@pytest.mark.parametrize(("fewer", "count", "expected"), [
    ("refuse", 5, [1] * 5), ("take", 5, [1] * 5), ("repeat", 5, [1] * 5), ("take", 3, [1] * 3),
    ("take", 13, [1] * 5), ("repeat", 13, [3, 3, 3, 2, 2]), ("refuse", 6, None),
])
def test_what_is_taken_when_there_are_fewer(
    tmp_path: Path, fewer: FewerPrompts, count: int, expected: list[int] | None
) -> None:
    write_jsonl(tmp_path / "train.jsonl", [{"id": f"train-{place}", "prompt": f"p{place}", "meta": {}} for place in range(5)])
    if expected is None:
        with pytest.raises(UserError, match="6 prompts asked for, train split has 5.*task.fewer_prompts=repeat or take"):
            select_prompts(tmp_path, count, 0, fewer)
        return
    chosen = select_prompts(tmp_path, count, 0, fewer)
    prompts = [example.prompt for example in chosen]
    assert sorted((prompts.count(prompt) for prompt in set(prompts)), reverse=True) == expected
    assert len({example.id for example in chosen}) == len(chosen)


def test_mathematics_takes_what_there_is_of_its_problems() -> None:
    assert build(["task=math", "model=qwen25_math_7b", "algorithm=grpo"]).task.fewer_prompts == "take"
