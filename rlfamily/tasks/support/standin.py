"""Files of a stand-in task: prompts, a corpus to pretrain on, and noisy preferences to fit reward models to."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from rlfamily.errors import UserError
from rlfamily.examples import Demonstration, Example
from rlfamily.records import write_jsonl
from rlfamily.settings import Strict

Meta = Mapping[str, Any]
Splits = dict[str, list[tuple[str, Meta]]]
"""Prompts with their meta, by split."""


class Sizes(Strict):
    """How much is written. The three splits share no prompt; what is learned from avoids the two held-out ones."""

    seed: int = Field(ge=0)
    train: int = Field(gt=0)
    validation: int = Field(gt=0)
    test: int = Field(gt=0)
    corpus: int = Field(gt=0)


class Labelled(Sizes):
    """With `preferences` for each of the world's merits.

    A labeller prefers response a to b with probability sigmoid((m_a - m_b) / label_noise), where m is the merit that
    the named preference looks at plus `length_bias` for each word: labels are noisy, and long looks better than it is.
    """

    preferences: int = Field(gt=0)
    label_noise: float = Field(gt=0)
    length_bias: float = Field(ge=0)


@dataclass(frozen=True)
class World:
    """A stand-in: its prompts (with meta), how people answer in the wild, and what each preference looks at.

    `merits` maps the name of a preference to the part of the hidden score that its labellers can see.
    """

    prompts: Sequence[tuple[str, Meta]]
    respond: Callable[[Meta, random.Random], str]
    score: Callable[[str, Meta], dict[str, float]]
    merits: Mapping[str, str]
    vocabulary: Sequence[str]


def build(world: World, sizes: Labelled, out: Path) -> dict[str, Any]:
    """Write all files that `rlfamily.tasks.Task.build` names and return their counts; there are no demonstrations."""
    splits = split(world, sizes)
    summary = write(world, splits, sizes, out)
    for name in ("demonstrations_train", "demonstrations_validation"):
        (out / f"{name}.jsonl").touch()
    for name in world.merits:
        write_jsonl(out / f"preferences_{name}.jsonl",
                    preferences(world, splits["train"], sizes, name, sizes.preferences))
    return {**summary, **{f"preferences_{name}": sizes.preferences for name in world.merits}}


def write(world: World, splits: Splits, sizes: Sizes, out: Path) -> dict[str, Any]:
    """Write what every stand-in has, the prompts of each split, corpus and vocabulary, and return their counts."""
    for name, prompts in splits.items():
        write_jsonl(out / f"{name}.jsonl", (asdict(Example(f"{name}-{place}", prompt, dict(meta)))
                                            for place, (prompt, meta) in enumerate(prompts)))
    # A stream of its own for each file, so that asking for more of one leaves the others as they are.
    write_jsonl(out / "corpus.jsonl", _corpus(world, splits["train"], sizes))
    (out / "vocabulary.json").write_text(json.dumps(list(world.vocabulary)))
    return {"train": sizes.train, "validation": sizes.validation, "test": sizes.test, "corpus": sizes.corpus}


def stutter(words: Sequence[str], longest: int, rng: random.Random) -> list[str]:
    """The words with one to three of them in a row said again and again: reward models must have seen that.

    Without it, the response with the highest score is one good word repeated without end.
    """
    size = min(len(words), rng.randint(1, 3))
    start = rng.randrange(len(words) - size + 1)
    room = max(1, (longest - len(words)) // size)
    return [*words[:start], *list(words[start:start + size]) * (1 + rng.randint(1, room)), *words[start + size:]]


def split(world: World, sizes: Sizes) -> Splits:
    """The prompts of each split. Held-out ones first: they stay the same when more training data is asked for."""
    prompts = list(world.prompts)
    wanted = {"test": sizes.test, "validation": sizes.validation, "train": sizes.train}
    if sum(wanted.values()) > len(prompts):
        raise UserError(f"task.source: train + validation + test = {sum(wanted.values())}, but there are only "
                        f"{len(prompts)} different prompts: lower them")
    order = random.Random(f"{sizes.seed} prompts").sample(prompts, len(prompts))
    splits, start = {}, 0
    for name, count in wanted.items():
        splits[name], start = order[start:start + count], start + count
    return splits


def _corpus(world: World, prompts: Sequence[tuple[str, Meta]], sizes: Sizes) -> Iterator[dict[str, Any]]:
    rng = random.Random(f"{sizes.seed} corpus")
    for place in range(sizes.corpus):
        prompt, meta = rng.choice(prompts)
        yield asdict(Demonstration(f"corpus-{place}", prompt, world.respond(meta, rng)))


def preferences(
    world: World, prompts: Sequence[tuple[str, Meta]], sizes: Labelled, name: str, count: int, stream: str = ""
) -> Iterator[dict[str, str]]:
    """`count` times two different answers to one prompt, and the labeller's choice; `stream` tells its chance apart."""
    rng = random.Random(f"{sizes.seed} {name}{stream}")

    def merit(response: str, meta: Meta) -> float:
        return world.score(response, meta)[world.merits[name]] + sizes.length_bias * len(response.split())

    for _ in range(count):
        prompt, meta = rng.choice(prompts)
        first = second = world.respond(meta, rng)
        while second == first:
            second = world.respond(meta, rng)
        margin = (merit(first, meta) - merit(second, meta)) / sizes.label_noise
        first_wins = rng.random() < 1 / (1 + math.exp(-margin))
        chosen, rejected = (first, second) if first_wins else (second, first)
        yield {"prompt": prompt, "chosen": chosen, "rejected": rejected}
