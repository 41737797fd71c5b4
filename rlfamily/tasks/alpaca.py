"""Instruction following (IRO sec. 5.2, app. H.2): UltraFeedback's instructions to learn from, AlpacaEval's to test on.

Two sources: `generated` instructions (no network), and the public data (`hub`). A test example has a `reference`, the
response that judges compare with; held-out pairs stand for, or are, RewardBench (IRO Table 10).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from rlfamily import tasks
from rlfamily.errors import UserError, nearest
from rlfamily.examples import Example, Pair
from rlfamily.records import write_jsonl
from rlfamily.settings import Strict
from rlfamily.tasks import TaskConfig
from rlfamily.tasks.support import hub, instruction_pairs, instructions, rated, same, standin

VERSION = "1"
HAS: frozenset[str] = frozenset()
GIVES: frozenset[str] = frozenset({"gold", "reference"})


class Generated(rated.Rated):
    """Instructions made here; preferences `ratings` are made of logged ratings, as UltraFeedback's are.

    Preferences `extensive` also have a pair of each section's kind (`rlfamily.tasks.support.instruction_pairs`) for
    every instruction to learn from. `pairs_test` says how many held-out pairs each section has.
    """

    kind: Literal["generated"]
    pairs_test: dict[str, Annotated[int, Field(gt=0)]]

    @field_validator("pairs_test")
    @classmethod
    def _check_sections(cls, pairs: dict[str, int]) -> dict[str, int]:
        for name in pairs:
            if name not in instruction_pairs.KINDS:
                raise ValueError(f"there is no section '{name}'{nearest(name, instruction_pairs.KINDS)}: name some of "
                                 f"{', '.join(instruction_pairs.KINDS)}")
        return pairs


class Prompts(hub.HubDataset):
    """A split of a dataset, or of its `folder`, with the column of its prompts."""

    folder: str | None
    split: str
    prompt: str


class Benchmark(Prompts):
    """With the column of the responses to compare with."""

    reference: str


class RewardBench(hub.HubDataset):
    """Pairs in columns `prompt`, `chosen`, `rejected` and `subset`.

    `sections` name their subsets, each with the number of pairs it is counted as, however many it has.
    """

    split: str
    sections: dict[str, dict[str, Annotated[float, Field(gt=0)]]]


class Hub(Strict):
    """The public data: `test` prompts are drawn with `seed` from the benchmark, the others from what is learned from.

    Instructions of the benchmark are not learned from.
    """

    kind: Literal["hub"]
    seed: int = Field(ge=0)
    learning: Prompts
    benchmark: Benchmark
    train: int = Field(gt=0)
    validation: int = Field(gt=0)
    test: int = Field(gt=0)
    pairs_test: RewardBench


class Data(tasks.Data):
    """All that the files of the task depend on."""

    source: Generated | Hub = Field(discriminator="kind")


class Config(Data, TaskConfig):
    """Settings of the task: its data, its reward, and how it is trained and evaluated on."""

    kind: Literal["alpaca"]

    @property
    def test_prompts(self) -> int:
        """Of either source."""
        return self.source.test

    @property
    def subsets(self) -> list[str]:
        """Of either source."""
        pairs = self.source.pairs_test
        return list(pairs.sections if isinstance(pairs, RewardBench) else pairs)


def build(data: Data, out: Path) -> dict[str, Any]:
    """Write the task's files into `out` and return their counts. See `rlfamily.tasks.Task.build`."""
    source = data.source
    summary, pairs = _build_generated(source, out) if isinstance(source, Generated) else _build_hub(source, out)
    write_jsonl(out / "pairs_test.jsonl", map(asdict, pairs))
    return {**summary, **{f"pairs of {name}": count for name, count in Counter(pair.subset for pair in pairs).items()}}


def score(response: str, meta: Mapping[str, Any]) -> dict[str, float]:
    """The hidden true reward of a stand-in's response (`instructions.judge`); nothing is known of the public data."""
    return instructions.judge(response, meta) if "facts" in meta else {}


# ---------------------------------------------------------------------------- stand-in


def _build_generated(source: Generated, out: Path) -> tuple[dict[str, Any], list[Pair]]:
    world = rated.world(source)
    splits = standin.split(world, source)
    ratings = rated.preferences(rated.logged(splits["train"], "train", source), source.seed)
    more = [{"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
            for section in instruction_pairs.KINDS
            for pair in _pairs(section, splits["train"], source.train, source)]
    extensive = random.Random(f"{source.seed} extensive").sample([*ratings, *more], len(ratings) + len(more))
    write_jsonl(out / "preferences_ratings.jsonl", ratings)
    write_jsonl(out / "preferences_extensive.jsonl", extensive)
    for name in ("demonstrations_train", "demonstrations_validation"):
        (out / f"{name}.jsonl").touch()
    summary = standin.write(world, splits, source, out)
    pairs = [_pairs(section, splits["test"], count, source) for section, count in source.pairs_test.items()]
    counts = {"preferences_ratings": len(ratings), "preferences_extensive": len(extensive)}
    return {**summary, **counts}, [pair for one in pairs for pair in one]


def _pairs(section: str, asked: list[tuple[str, standin.Meta]], count: int, source: Generated) -> list[Pair]:
    """An excellent response and one that is bad in the section's way, to `count` instructions in turn."""
    rng, write = random.Random(f"{source.seed} {section}"), instruction_pairs.KINDS[section]
    turns = (asked[place % len(asked)] for place in range(count))
    return [Pair(section, prompt, instructions.excellent(meta, rng), write(meta, rng), 1.0, dict(meta))
            for prompt, meta in turns]


# ---------------------------------------------------------------------------- public data


def _build_hub(source: Hub, out: Path) -> tuple[dict[str, Any], list[Pair]]:
    left_out: Counter[str] = Counter()
    benchmark, learning = source.benchmark, source.learning
    asked = _drawn(benchmark, "benchmark", [benchmark.reference], source.seed, left_out)
    held_out: set[Hashable] = {same.normal(texts[0]) for _, texts in asked}
    splits = {"test": [_example("test", row, texts[0], {"reference": texts[1]}) for row, texts in asked[:source.test]]}
    rest = _drawn(learning, "learning", [], source.seed, left_out)
    found = same.unseen(rest, lambda one: [same.normal(one[1][0])], held_out, left_out, "prompts to learn from",
                        source.validation + source.train)
    for split, rows in (("validation", found[:source.validation]), ("train", found[source.validation:])):
        splits[split] = [_example(split, row, texts[0], {}) for row, texts in rows]
    hub.write_splits(out, splits, {"test": source.test, "validation": source.validation, "train": source.train},
                     learning.path)
    revisions = {f"{name}_revision": hub.resolved_revision(dataset) for name, dataset in (
        ("learning", learning), ("benchmark", benchmark), ("pairs", source.pairs_test))}
    pairs = _reward_bench(source.pairs_test, left_out)
    counts = {split: len(rows) for split, rows in splits.items()}
    return {**counts, tasks.LEFT_OUT: dict(left_out), **revisions}, pairs


def _drawn(
    source: Prompts, name: str, beside: list[str], seed: int, left_out: Counter[str]
) -> list[tuple[int, list[str]]]:
    """Rows in random order, with the text of their prompt and of the columns `beside` it; those without are counted."""
    key, columns = f"task.source.{name}", [source.prompt, *beside]
    rows = hub.load(source, source.split, columns, key, source.folder)
    found = []
    for row in random.Random(f"{seed} {name}").sample(range(len(rows)), len(rows)):
        texts = [text for column in columns if (text := hub.text(rows[row][column], source, column, row, key))]
        if len(texts) == len(columns):
            found.append((row, texts))
        else:
            left_out[f"rows of {key} without text"] += 1
    return found


def _example(split: str, row: int, prompt: str, meta: dict[str, Any]) -> Example:
    return Example(f"{split}-{row}", prompt, {"messages": [{"role": "user", "content": prompt}], **meta})


def _reward_bench(source: RewardBench, left_out: Counter[str]) -> list[Pair]:
    """Pairs by section, weighed so that each subset counts as many as its section says."""
    key, columns = "task.source.pairs_test", ("prompt", "chosen", "rejected", "subset")
    rows = hub.load(source, source.split, columns, key)
    places = {subset: section for section, subsets in source.sections.items() for subset in subsets}
    sizes = Counter(row["subset"] for row in rows)
    for subset in places:
        if not sizes[subset]:
            raise UserError(f"{key}.sections: '{source.path}' has no pair of subset '{subset}'{nearest(subset, sizes)}:"
                            " name subsets that it has")
    left_out["pairs of no section"] += sum(size for subset, size in sizes.items() if subset not in places)
    return [Pair(section, str(row["prompt"]), str(row["chosen"]), str(row["rejected"]),
                 source.sections[section][row["subset"]] / sizes[row["subset"]], {})
            for row in rows if (section := places.get(row["subset"]))]
