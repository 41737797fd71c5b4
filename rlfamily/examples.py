"""What tasks write and everything after them reads: prompts, demonstrations to imitate, logged responses, pairs."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rlfamily.errors import UserError
from rlfamily.records import read_jsonl
from rlfamily.streams import epoch_order, prompts_seed

CONTROLLED = "controlled"
"""In a test example's meta: its difficulty, and two numbers of each gamed baseline, for length-controlled win rates."""

FewerPrompts = Literal["refuse", "repeat", "take"]
"""What to do when a training split has fewer prompts than are asked for."""


@dataclass(frozen=True)
class Example:
    """One prompt with what its checker needs (`meta`, plain JSON). `id` names its split and place."""

    id: str
    prompt: str
    meta: dict[str, Any]


@dataclass(frozen=True)
class Demonstration:
    """A prompt with a completion to imitate."""

    id: str
    prompt: str
    completion: str


@dataclass(frozen=True)
class Logged:
    """A prompt with all its logged responses and the reward of each, as the data has them."""

    id: str
    prompt: str
    responses: list[str]
    rewards: list[float]


@dataclass(frozen=True)
class Pair:
    """Two responses to a prompt in the order of their label, to measure a reward by; `meta` is that of an example.

    `weight` says how much it counts in the accuracy of its `subset`.
    """

    subset: str
    prompt: str
    chosen: str
    rejected: str
    weight: float
    meta: dict[str, Any]


def read_examples(path: Path) -> list[Example]:
    """Read an examples file written by a task's `build`."""
    return [Example(**row) for row in read_jsonl(path)]


def read_demonstrations(path: Path) -> list[Demonstration]:
    """Read a demonstrations file written by a task's `build`."""
    return [Demonstration(**row) for row in read_jsonl(path)]


def read_logged(path: Path) -> list[Logged]:
    """Read a file of logged responses written by a task's `build`."""
    return [Logged(**row) for row in read_jsonl(path)]


def read_pairs(path: Path) -> list[Pair]:
    """Read a file of held-out pairs written by a task's `build`."""
    return [Pair(**row) for row in read_jsonl(path)]


def held_out(data: Path, count: int) -> dict[int, Example]:
    """`count` test examples by their place in test.jsonl: of every benchmark its first ones, as many as its share.

    Raises UserError when there are fewer.
    """
    examples = read_examples(data / "test.jsonl")
    if count > len(examples):
        raise UserError(f"task.eval_prompts={count}, but the test split has {len(examples)} prompts: lower it")
    names = [str(example.meta.get("benchmark", "")) for example in examples]
    left = shares(Counter(names), count)
    chosen: dict[int, Example] = {}
    for place, (name, example) in enumerate(zip(names, examples, strict=True)):
        if left[name]:
            left[name] -= 1
            chosen[place] = example
    return chosen


def shares(sizes: Mapping[str, int], count: int) -> dict[str, int]:
    """`count` divided in proportion to `sizes` by largest remainders; every part gets one where `count` allows.

    Where remainders tie, and where there is not one for each, the larger part comes first, then the earlier one.
    """
    total = sum(sizes.values())
    found = {name: count * size // total for name, size in sizes.items()}
    order = sorted(sizes, key=lambda name: (-(count * sizes[name] % total), -sizes[name]))
    for name in order[:count - sum(found.values())]:
        found[name] += 1
    for name in [name for name in found if not found[name]] if count >= len(sizes) else []:
        # from the part that is furthest above its proportion and keeps one
        giver = max((one for one in found if found[one] > 1), key=lambda one: total * found[one] - count * sizes[one])
        found[giver], found[name] = found[giver] - 1, 1
    return found


def select_prompts(
    data: Path, count: int, seed: int, fewer: FewerPrompts, fits: Callable[[Example], bool]
) -> tuple[list[Example], int]:
    """`count` training prompts at random, and how many were left out on the way because they do not fit.

    When there are fewer, they come pass after pass (`repeat`), or each once (`take`).
    Raises UserError when there are fewer and `fewer` is `refuse`, and when none fits.
    """
    examples = read_examples(data / "train.jsonl")
    chosen: list[Example] = []
    long: set[int] = set()
    for turn in itertools.count():
        for index in epoch_order(len(examples), turn, prompts_seed(seed)):
            if len(chosen) == count:
                return chosen, len(long)
            example = examples[index]
            if index in long or not (turn or fits(example)):
                long.add(index)
            else:
                # A name of its own for each pass, so that a prompt's responses have streams of their own in each.
                chosen.append(replace(example, id=f"{example.id}, pass {turn + 1}") if turn else example)
        if len(chosen) == count or (fewer == "take" and chosen):
            break
        if fewer == "refuse" or not chosen:
            raise UserError(f"data: {count} prompts asked for, train split has {len(chosen)}"
                            f"{f' that leave room for a response, and {len(long)} others' if long else ''}: lower "
                            "algorithm.prompts or task.prompt_fraction, keep more rows in the task's source, or set "
                            "task.fewer_prompts=repeat or take")
    return chosen, len(long)
