"""Public sets of problems with answers: what mathematics is learned from, and the benchmarks it is tested on."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

from pydantic import Field

from rlfamily import tasks
from rlfamily.errors import UserError
from rlfamily.settings import Strict
from rlfamily.tasks.support import hub, same
from rlfamily.tasks.support.math_answers import last_boxed


class ProblemSet(hub.HubDataset):
    """A split of a dataset with the columns of its problems and answers.

    An answer is text, a number, or a list of either; with `boxed`, it is the last box in a worked solution.
    """

    split: str
    problem: str
    answer: str
    boxed: bool


class Benchmark(ProblemSet):
    """Problems to test on, under the name that the tables use."""

    name: str


class Hub(Strict):
    """The public data. `validation` problems are drawn from the training set with `seed`, the others train.

    Left out: problems whose solution has no complete box, repeated ones, those of a benchmark, and `shown` ones (the
    template's examples); problems are compared in one normal form (`same.normal`). Benchmarks keep every row that has
    an answer.
    """

    kind: Literal["hub"]
    seed: int = Field(ge=0)
    training: ProblemSet
    shown: list[str]
    validation: int = Field(gt=0)
    benchmarks: list[Benchmark] = Field(min_length=1)


class MarkedSet(ProblemSet):
    """A set, or its `folder`, whose answers are what follows the last `marker` in their column (null: all of it)."""

    folder: str | None
    marker: str | None


class MarkedBenchmark(MarkedSet, Benchmark):
    """To test on: `sample` problems at random, in the set's own order; null: all of them."""

    sample: int | None = Field(gt=0)


class Chat(Strict):
    """Public data asked in a chat that begins with `system`; otherwise as `Hub`, with no problem shown."""

    kind: Literal["chat"]
    seed: int = Field(ge=0)
    system: str
    training: MarkedSet
    validation: int = Field(gt=0)
    benchmarks: list[MarkedBenchmark] = Field(min_length=1)


class Found(NamedTuple):
    """A problem with its answer; one to test on names its benchmark."""

    benchmark: str
    problem: str
    answer: str


def read(source: Hub | Chat) -> tuple[dict[str, list[Found]], dict[str, Any]]:
    """The problems of each split, and the summary of the data. Raises UserError for a set that cannot be used."""
    left_out: Counter[str] = Counter()
    benchmarks: Sequence[Benchmark] = source.benchmarks
    sets = [[Found(benchmark.name, *row) for row in rows(benchmark, f"task.source.benchmarks[{index}]", left_out)]
            for index, benchmark in enumerate(benchmarks)]
    held_out: set[Hashable] = {same.normal(one.problem) for found in sets for one in found}
    test = [one for benchmark, found in zip(benchmarks, sets, strict=True)
            for one in _sampled(benchmark, found, source.seed)]
    shown = set(map(same.normal, source.shown)) if isinstance(source, Hub) else set()
    others = rows(source.training, "task.source.training", left_out)
    training = same.unseen(
        (row for row in others if same.normal(row[0]) not in shown), lambda row: [same.normal(row[0])], held_out,
        left_out, "training problems")
    if len(training) <= source.validation:
        raise UserError(f"task.source.validation={source.validation}, but '{source.training.path}' holds "
                        f"{len(training)} problems to train on: lower it")
    random.Random(source.seed).shuffle(training)
    splits = {"validation": _named(training[:source.validation]), "train": _named(training[source.validation:]),
              "test": test}
    counts = {split: len(splits[split]) for split in ("validation", "train")} | Counter(one.benchmark for one in test)
    named: list[tuple[str, hub.HubDataset]] = [("training", source.training)]
    named += [(benchmark.name, benchmark) for benchmark in benchmarks]
    revisions = {f"{name}_revision": hub.resolved_revision(dataset) for name, dataset in named}
    return splits, {**counts, "test": len(test), tasks.LEFT_OUT: dict(left_out), **revisions}


def _named(rows: Iterable[tuple[str, str]]) -> list[Found]:
    return [Found("", *row) for row in rows]


def _sampled(benchmark: Benchmark, found: Sequence[Found], seed: int) -> list[Found]:
    """Raises UserError when there are fewer problems than asked for."""
    count = benchmark.sample if isinstance(benchmark, MarkedBenchmark) else None
    if count is None:
        return list(found)
    if count > len(found):
        raise UserError(f"task.source.benchmarks: {benchmark.name}: sample={count}, but '{benchmark.path}' has "
                        f"{len(found)} problems: lower it, or null for all")
    places = random.Random(f"{seed} {benchmark.name}").sample(range(len(found)), count)
    return [found[place] for place in sorted(places)]


def rows(source: ProblemSet, key: str, left_out: Counter[str]) -> list[tuple[str, str]]:
    """Problem and answer of each row that has both; `left_out` counts the others."""
    folder = source.folder if isinstance(source, MarkedSet) else None
    found = hub.load(source, source.split, (source.problem, source.answer), key, folder)
    pairs = [(hub.text(row[source.problem], source, source.problem, place, f"{key}.problem"),
              _answer(row[source.answer], source, place, f"{key}.answer")) for place, row in enumerate(found)]
    kept = [(problem.strip(), answer) for problem, answer in pairs if problem and answer]
    if len(kept) < len(pairs):
        left_out[f"rows of {key} without problem or answer"] += len(pairs) - len(kept)
    if not kept:
        raise UserError(f"{key}.answer: no row of '{source.path}' has an answer in column '{source.answer}' "
                        f"(boxed={str(source.boxed).lower()})")
    return kept


def _answer(value: Any, source: ProblemSet, row: int, key: str) -> str | None:
    """The answer as the inside of a box: several are joined by commas, dollar signs around one are left out."""
    values = value if isinstance(value, list) and not source.boxed else [value]
    texts = [text for each in values if (text := hub.text(each, source, source.answer, row, key)) is not None]
    if source.boxed:
        return last_boxed(texts[0]) if texts else None
    if isinstance(source, MarkedSet) and source.marker is not None:
        _, marked, answer = texts[0].rpartition(source.marker) if texts else ("", "", "")
        return answer.strip() if marked and answer.strip() else None
    return ", ".join(text.strip().strip("$").strip() for text in texts)
