"""Countdown: combine all given numbers with + - * / to reach a target.

Two sources behind one interface: `generated` puzzles with solver traces (no network), and the public datasets of
the TOPR report (`hub`). Files and formats are those of `rlfamily.tasks.Task.build`.
"""

from __future__ import annotations

import json
import random
import string
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from rlfamily import tasks
from rlfamily.errors import UserError
from rlfamily.examples import Demonstration, Example
from rlfamily.records import write_jsonl
from rlfamily.settings import Strict
from rlfamily.tasks import TaskConfig
from rlfamily.tasks.support import arithmetic, hub, same
from rlfamily.tasks.support.puzzles import Generator, Puzzle, PuzzleKey, Solution

VERSION = "2"
HAS: frozenset[str] = frozenset({"demonstrations"})
GIVES: frozenset[str] = frozenset({"format", "valid", "nums", "target"})


class Generated(Strict):
    """Puzzles made here. The five splits share no puzzle; corpus lines avoid them all and may repeat a puzzle.

    Numbers are drawn from [1, max_operand]; intermediate values and targets lie in [1, max_value]. A corpus line
    states its answer without tags with probability `corpus_plain_fraction` (so that fine-tuning has a format to
    teach), and misses its target with probability `corpus_error_fraction` (text in the wild is not all right).
    """

    kind: Literal["generated"]
    seed: int = Field(ge=0)
    numbers: int = Field(ge=2, le=4)
    max_operand: int = Field(gt=0)
    max_value: int = Field(gt=0)
    train: int = Field(gt=0)
    validation: int = Field(gt=0)
    test: int = Field(gt=0)
    demonstrations_train: int = Field(gt=0)
    demonstrations_validation: int = Field(gt=0)
    corpus: int = Field(gt=0)
    corpus_plain_fraction: float = Field(ge=0, le=1)
    corpus_error_fraction: float = Field(ge=0, le=1)


class Hub(Strict):
    """The public datasets. The first `train_rows` puzzles are for training, the next `test` for testing (TinyZero's
    split), the next `validation` for validation; `train` rows are drawn at random, with `seed`, from the first part.
    Demonstrations of test puzzles are left out.
    """

    kind: Literal["hub"]
    seed: int = Field(ge=0)
    puzzles: hub.HubDataset
    train_rows: int = Field(gt=0)
    train: int = Field(gt=0)
    validation: int = Field(gt=0)
    test: int = Field(gt=0)
    demonstrations: hub.HubDataset


class Data(tasks.Data):
    """All that the files of the task depend on. `nums_format` writes {nums} as `3 7 12` or as `[3, 7, 12]`."""

    template: str
    nums_format: Literal["words", "list"]
    source: Generated | Hub = Field(discriminator="kind")

    @field_validator("template")
    @classmethod
    def _check_template(cls, template: str) -> str:
        fields = sorted(name for _, name, _, _ in string.Formatter().parse(template) if name is not None)
        if fields != ["nums", "target"]:
            raise ValueError("must hold {nums} once, {target} once and no other braces")
        return template


class Config(Data, TaskConfig):
    """Settings of the task: its data, and how it is trained and evaluated on."""

    kind: Literal["countdown"]

    @property
    def test_prompts(self) -> int:
        """Of either source."""
        return self.source.test


def build(data: Data, out: Path) -> dict[str, Any]:
    """Write the task's files into `out` and return their counts. See `rlfamily.tasks.Task.build`."""
    if isinstance(data.source, Generated):
        return _build_generated(data, data.source, out)
    return _build_hub(data, data.source, out)


def score(response: str, meta: Mapping[str, Any]) -> dict[str, float]:
    """Check a response against meta `nums` and `target`: an answer in tags, well formed; and equal to the target."""
    answer = arithmetic.find_answer(response)
    if answer is None or not arithmetic.well_formed(answer):
        return {"format": 0.0, "valid": 0.0}
    return {"format": 1.0, "valid": float(arithmetic.solves(answer, meta["nums"], meta["target"]))}


def render_prompt(data: Data, numbers: Sequence[int], target: int) -> str:
    """Fill the template. TinyZero prints the numbers as a Python list."""
    words = " ".join(map(str, numbers)) if data.nums_format == "words" else str(list(numbers))
    return data.template.format(nums=words, target=target)


def render_trace(solution: Solution, tagged: bool) -> str:
    """A short derivation, then the answer: in tags, or after the word `so`. Words are separated by one blank."""
    derivation = " , ".join(solution.steps)
    if tagged:
        return f"{derivation} {arithmetic.OPEN} {solution.expression} {arithmetic.CLOSE}"
    return f"{derivation} so {solution.expression}"


# ---------------------------------------------------------------------------- generated puzzles


def _build_generated(data: Data, source: Generated, out: Path) -> dict[str, Any]:
    generator = Generator(source.numbers, source.max_operand, source.max_value, source.seed)
    taken: set[PuzzleKey] = set()

    def draw(split: str) -> list[Puzzle]:
        wanted = getattr(source, split)
        puzzles = generator.distinct(wanted, taken)
        if len(puzzles) < wanted:
            raise UserError(f"task.source: only {len(taken)} different puzzles found, too few for {split}={wanted}: "
                            "raise task.source.max_operand or max_value, or lower the sizes of the splits")
        return puzzles

    # Held-out splits first: they stay the same when more training data is asked for.
    for split in ("test", "validation", "train"):
        _write(out / f"{split}.jsonl", (_example(data, split, place, puzzle.numbers, puzzle.target)
                                        for place, puzzle in enumerate(draw(split))))
    for split in ("demonstrations_validation", "demonstrations_train"):
        _write(out / f"{split}.jsonl", (_demonstration(data, split, place, puzzle, puzzle.solution, True)
                                        for place, puzzle in enumerate(draw(split))))
    _write(out / "corpus.jsonl", _corpus(data, source, generator, taken))
    (out / "vocabulary.json").write_text(json.dumps(_vocabulary(data, source)))
    return {split: getattr(source, split) for split in
            ("train", "validation", "test", "demonstrations_train", "demonstrations_validation", "corpus")}


def _corpus(data: Data, source: Generated, generator: Generator, held_out: set[PuzzleKey]) -> Iterable[Demonstration]:
    """Text for a base model: other puzzles, with repeats, in two answer styles, some of it wrong."""
    rng = generator.random
    place = failures = 0
    while place < source.corpus:
        puzzle = generator.puzzle()
        if puzzle.key in held_out:
            failures += 1
            if failures > 100 * (place + 100):
                raise UserError("task.source: the splits leave no puzzles for the corpus: "
                                "raise task.source.max_operand or max_value, or lower the sizes of the splits")
            continue
        solution: Solution | None = None
        if rng.random() < source.corpus_error_fraction:
            solution = generator.wrong_solution(puzzle)
        tagged = rng.random() >= source.corpus_plain_fraction
        yield _demonstration(data, "corpus", place, puzzle, solution or puzzle.solution, tagged)
        place += 1


def _vocabulary(data: Data, source: Generated) -> list[str]:
    """Every word that can occur in any file, numbers up to the largest one included."""
    largest = max(source.max_operand, source.max_value)
    words = {*data.template.format(nums="", target="").split(), "+", "-", "*", "/", "=", ",", "(", ")", "so",
             arithmetic.OPEN, arithmetic.CLOSE}
    return [*sorted(words), *map(str, range(1, largest + 1))]


# ---------------------------------------------------------------------------- public datasets


def _build_hub(data: Data, source: Hub, out: Path) -> dict[str, Any]:
    left_out: Counter[str] = Counter()
    counts, held_out = _hub_puzzles(data, source, out, left_out)
    return {
        **counts,
        **_hub_demonstrations(source, out, held_out, left_out),
        tasks.LEFT_OUT: dict(left_out),
        "puzzles_revision": hub.resolved_revision(source.puzzles),
        "demonstrations_revision": hub.resolved_revision(source.demonstrations),
    }


def _hub_puzzles(
    data: Data, source: Hub, out: Path, left_out: Counter[str]
) -> tuple[dict[str, int], set[PuzzleKey]]:
    """Write the three splits; the test split is exactly TinyZero's, the others leave out what is held out.

    Returns their sizes and the puzzles of the test split.
    """
    rows = hub.load(source.puzzles, "train", ("nums", "target"), "task.source.puzzles")
    test_end = source.train_rows + source.test
    needed = test_end + source.validation
    if len(rows) < needed:
        raise UserError(f"task.source.puzzles: '{source.puzzles.path}' has {len(rows)} rows but train_rows + test + "
                        f"validation = {needed}: lower task.source.train_rows (or the others)")
    order = list(range(source.train_rows))
    random.Random(source.seed).shuffle(order)
    splits = {"test": list(_hub_examples(data, "test", rows, range(source.train_rows, test_end), left_out))}
    seen: set[Hashable] = set(map(_key, splits["test"]))
    # The public data holds the same puzzle more than once, in another order of its numbers, also across the split.
    for split, found, count in (("validation", range(test_end, needed), source.validation),
                                ("train", order, source.train)):
        splits[split] = same.unseen(_hub_examples(data, split, rows, found, left_out), lambda one: [_key(one)], seen,
                                    left_out, f"{split} puzzles", count)
        seen |= set(map(_key, splits[split]))
    if len(splits["train"]) < source.train:
        raise UserError(f"task.source.train: {source.train} rows asked, but the first {source.train_rows} rows of "
                        f"'{source.puzzles.path}' hold {len(splits['train'])} puzzles that are not held out: lower it")
    for split, examples in splits.items():
        _write(out / f"{split}.jsonl", examples)
    return {split: len(examples) for split, examples in splits.items()}, set(map(_key, splits["test"]))


def _hub_demonstrations(
    source: Hub, out: Path, held_out: set[PuzzleKey], left_out: Counter[str]
) -> dict[str, int]:
    """As they are, without those of `held_out` puzzles, and without rows that have an empty cell."""
    counts: dict[str, int] = {}
    for split, hub_split in (("demonstrations_train", "train"), ("demonstrations_validation", "test")):
        rows = hub.load(source.demonstrations, hub_split, ("query", "completion"), "task.source.demonstrations")
        texts = [[hub.text(row[column], source.demonstrations, column, place, "task.source.demonstrations")
                  for column in ("query", "completion")] for place, row in enumerate(rows)]
        kept: list[Demonstration] = []
        for place, (query, completion) in enumerate(texts):
            if query is None or completion is None:
                left_out["demonstrations without query or completion"] += 1
            elif same.puzzles_in(query) & held_out:
                left_out["demonstrations of test puzzles"] += 1
            else:
                kept.append(Demonstration(f"{split}-{place}", query, completion))
        _write(out / f"{split}.jsonl", kept)
        counts[split] = len(kept)
    return counts


def _hub_examples(
    data: Data, split: str, rows: Sequence[Any], order: Iterable[int], left_out: Counter[str]
) -> Iterator[Example]:
    """The puzzles of these rows, without those that have an empty cell."""
    for row in order:
        puzzle = _hub_puzzle(rows[row], row)
        if puzzle is None:
            left_out[f"{split} rows without numbers or target"] += 1
        else:
            yield _example(data, split, row, *puzzle)


def _hub_puzzle(cells: Mapping[str, Any], row: int) -> tuple[list[int], int] | None:
    """Numbers and target of a row; None where one is empty (null, or NaN). Raises UserError for anything else."""
    numbers, target = cells["nums"], cells["target"]
    values = [*numbers, target] if isinstance(numbers, list | tuple) else [numbers, target]
    if any(value is None or value != value for value in values) or numbers == []:
        return None
    # A table with an empty cell has whole numbers as floats.
    if len(values) == 2 or any(type(value) is not int and not (isinstance(value, float) and value.is_integer())
                               for value in values):
        raise UserError(f"task.source.puzzles: row {row} has nums={numbers!r} and target={target!r}: "
                        "give a list of integers and an integer")
    return [int(value) for value in values[:-1]], int(target)


# ---------------------------------------------------------------------------- rows


def _example(data: Data, split: str, place: int, numbers: Sequence[int], target: int) -> Example:
    return Example(f"{split}-{place}", render_prompt(data, numbers, target), {"nums": list(numbers), "target": target})


def _demonstration(
    data: Data, split: str, place: int, puzzle: Puzzle, solution: Solution, tagged: bool,
) -> Demonstration:
    prompt = render_prompt(data, puzzle.numbers, puzzle.target)
    return Demonstration(f"{split}-{place}", prompt, render_trace(solution, tagged))


def _key(example: Example) -> PuzzleKey:
    return tuple(sorted(example.meta["nums"])), example.meta["target"]


def _write(path: Path, rows: Iterable[Example | Demonstration]) -> None:
    write_jsonl(path, (asdict(row) for row in rows))
