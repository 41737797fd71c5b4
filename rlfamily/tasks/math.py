"""Mathematical reasoning in labelled steps with a boxed answer (GN-IVO sec. 4.1 and app. C.1).

Two sources behind one interface: `generated` arithmetic, a stand-in with one level of difficulty for each benchmark
(no network), and the public data (`hub`: MATH to train on, five benchmarks to test on; `chat`: GSM8K to train on, asked
in a chat, IRO app. H.4). Files and formats are those of `rlfamily.tasks.Task.build`. A test example names its benchmark
in meta, a generated one also its level.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from rlfamily import tasks
from rlfamily.examples import Demonstration, Example
from rlfamily.records import write_jsonl
from rlfamily.settings import Strict
from rlfamily.tasks import TaskConfig
from rlfamily.tasks.support import math_forms, problem_sets
from rlfamily.tasks.support.math_answers import CPU_SECONDS, equivalent, first_solution, last_boxed
from rlfamily.tasks.support.math_problems import SIGNS, Generator, Problem, Step, solve
from rlfamily.tasks.support.problem_sets import Chat, Hub

VERSION = "6"
HAS: frozenset[str] = frozenset()
GIVES: frozenset[str] = frozenset({"format", "valid", "answer"})
PLACE = "{problem}"  # in a template; replaced as it stands, since LaTeX is full of other braces
OPENING = "Problem:"  # how the paper's template begins a problem; examples of another template name theirs in meta


class Level(Strict):
    """A difficulty, standing in for `benchmark`: `operations` on numbers up to `max_operand`, `test` problems.

    A share `tricky` of its problems has another answer when worked from left to right.
    """

    benchmark: str
    operations: int = Field(gt=0)
    max_operand: int = Field(gt=0)
    tricky: float = Field(ge=0, le=1)
    test: int = Field(gt=0)


class Generated(Strict):
    """Problems made here. The splits share none; corpus lines avoid them all and may repeat one.

    Values lie in [0, max_value]. Training, validation and corpus take the levels in turn. A corpus line has neither
    labels nor a box with probability `corpus_plain_fraction`; a tricky one is worked from left to right with
    probability `corpus_error_fraction`, so that the base model knows both ways, and rewards can teach which is right.
    """

    kind: Literal["generated"]
    seed: int = Field(ge=0)
    max_value: int = Field(gt=0)
    levels: list[Level] = Field(min_length=1)
    train: int = Field(gt=0)
    validation: int = Field(gt=0)
    corpus: int = Field(gt=0)
    corpus_plain_fraction: float = Field(ge=0, le=1)
    corpus_error_fraction: float = Field(ge=0, le=1)


class Data(tasks.Data):
    """All that the files of the task depend on. `template` holds the place of the problem once.

    `check_seconds` of CPU time decide one comparison of answers; what takes longer is wrong.
    """

    template: str
    check_seconds: float = Field(gt=0)
    source: Generated | Hub | Chat = Field(discriminator="kind")

    @field_validator("template")
    @classmethod
    def _check_template(cls, template: str) -> str:
        if template.count(PLACE) != 1:
            raise ValueError(f"must hold {PLACE} once")
        return template


class Config(Data, TaskConfig):
    """Settings of the task: its data, and how it is trained and evaluated on."""

    kind: Literal["math"]

    @property
    def test_prompts(self) -> int | None:
        """Of generated levels; public benchmarks have as many as their files have."""
        return sum(level.test for level in self.source.levels) if isinstance(self.source, Generated) else None

    @property
    def benchmarks(self) -> list[str]:
        """Names of the benchmarks, or of those that levels stand in for."""
        if isinstance(self.source, Generated):
            return list(dict.fromkeys(level.benchmark for level in self.source.levels))
        return [benchmark.name for benchmark in self.source.benchmarks]


def build(data: Data, out: Path) -> dict[str, Any]:
    """Write the task's files into `out` and return their counts. See `rlfamily.tasks.Task.build`."""
    for split in ("demonstrations_train", "demonstrations_validation"):
        _write(out / f"{split}.jsonl", [])  # the paper fine-tunes on none
    if isinstance(data.source, Generated):
        return _build_generated(data, data.source, out)
    return _build_hub(data, data.source, out)


def answer(response: str, meta: Mapping[str, Any]) -> str | None:
    """The normal form of what the response boxes last, in which most equal answers are equal; None without a box."""
    boxed = last_boxed(first_solution(response, meta.get("opening", OPENING)))
    return None if boxed is None else math_forms.normal(boxed) or None


def score(response: str, meta: Mapping[str, Any]) -> dict[str, float]:
    """`format`: the response has an answer in a box; `valid`: that equals meta `answer`.

    What follows a further problem, begun as the prompt begins its own, is no answer to this one.
    """
    answer = last_boxed(first_solution(response, meta.get("opening", OPENING)))
    if answer is None:
        return {"format": 0.0, "valid": 0.0}
    return {"format": 1.0, "valid": float(
        equivalent(meta["answer"], answer, meta.get("check_seconds", CPU_SECONDS)))}


# ---------------------------------------------------------------------------- generated problems


def render_solution(steps: Sequence[Step], labelled: bool) -> str:
    """Labelled steps, one a line, and the answer in a box; or plain equations and the answer after the word `so`."""
    if not labelled:
        return f"{' , '.join(map(str, steps))} so {steps[-1].value}"
    lines = [f"step{place}: {step}" for place, step in enumerate(steps, start=1)]
    return " \n ".join([*lines, f"\\boxed{{ {steps[-1].value} }}"])


def _build_generated(data: Data, source: Generated, out: Path) -> dict[str, Any]:
    generator = Generator(source.max_value, source.seed)
    taken: set[Problem] = set()

    def examples(split: str, levels: Iterable[int], named: bool) -> Iterator[Example]:
        for place, index in enumerate(levels):
            level = source.levels[index]
            problem = generator.new(level.operations, level.max_operand, level.tricky, taken)
            taken.add(problem)
            meta = {"answer": str(solve(problem, left_to_right=False)[-1].value), "level": index + 1}
            name = {"benchmark": level.benchmark} if named else {}
            yield Example(f"{split}-{place}", _prompt(data, str(problem)), meta | name | _marking(data))

    # Held-out splits first: they stay the same when more training data is asked for.
    turns = {split: [place % len(source.levels) for place in range(getattr(source, split))]
             for split in ("validation", "train", "corpus")}
    test = _interleaved([level.test for level in source.levels])
    for split, levels in (("test", test), ("validation", turns["validation"]), ("train", turns["train"])):
        _write(out / f"{split}.jsonl", examples(split, levels, named=split == "test"))
    _write(out / "corpus.jsonl", _corpus(data, source, generator, turns["corpus"], taken))
    (out / "vocabulary.json").write_text(json.dumps(_vocabulary(data, source)))
    return {"train": source.train, "validation": source.validation, "test": len(test), "corpus": source.corpus}


def _interleaved(counts: Sequence[int]) -> list[int]:
    """Each index as often as its count says, so mixed that every beginning has about the same shares."""
    places = [((turn + 0.5) / count, index) for index, count in enumerate(counts) for turn in range(count)]
    return [index for _, index in sorted(places)]


def _corpus(
    data: Data, source: Generated, generator: Generator, levels: Iterable[int], taken: set[Problem]
) -> Iterator[Demonstration]:
    """Text for a base model: other problems, with repeats, in two styles, some worked in the wrong order."""
    rng = generator.random
    for place, index in enumerate(levels):
        level = source.levels[index]
        problem = generator.new(level.operations, level.max_operand, level.tricky, taken)
        mistaken = generator.mistaken(problem) if rng.random() < source.corpus_error_fraction else None
        labelled = rng.random() >= source.corpus_plain_fraction
        solution = render_solution(mistaken or solve(problem, left_to_right=False), labelled)
        yield Demonstration(f"corpus-{place}", _prompt(data, str(problem)), solution)


def _vocabulary(data: Data, source: Generated) -> list[str]:
    """Every word that can occur in any file, numbers up to the largest one included."""
    longest = max(level.operations for level in source.levels)
    largest = max(source.max_value, *(level.max_operand for level in source.levels))
    words = {*data.template.replace(PLACE, "").split(), *SIGNS, "=", ",", "so", "\n", "\\boxed{", "}"}
    labels = [f"step{place}:" for place in range(1, longest + 1)]
    return [*sorted(words), *labels, *map(str, range(largest + 1))]


# ---------------------------------------------------------------------------- public datasets


def _build_hub(data: Data, source: Hub | Chat, out: Path) -> dict[str, Any]:
    splits, summary = problem_sets.read(source)
    for split, problems in splits.items():
        _write(out / f"{split}.jsonl", (
            Example(f"{split}-{place}", _text(data, one.problem), {"answer": one.answer} | _marking(data)
                    | ({"benchmark": one.benchmark} if one.benchmark else {}) | _messages(data, one.problem))
            for place, one in enumerate(problems)))
    return summary


# ---------------------------------------------------------------------------- rows


def _prompt(data: Data, problem: str) -> str:
    return data.template.replace(PLACE, problem)


def _text(data: Data, problem: str) -> str:
    """What a model without chats is given."""
    prompt, source = _prompt(data, problem), data.source
    return f"{source.system}\n\n{prompt}" if isinstance(source, Chat) else prompt


def _messages(data: Data, problem: str) -> dict[str, Any]:
    """The chat, where the source says that it is one."""
    if not isinstance(data.source, Chat):
        return {}
    return {"messages": [{"role": "system", "content": data.source.system},
                         {"role": "user", "content": _prompt(data, problem)}]}


def _marking(data: Data) -> dict[str, Any]:
    """What `score` must know of an example beside its answer, where it is not as usual."""
    opening = data.template.partition(PLACE)[0].rpartition("\n")[2].strip()
    return ({} if opening == OPENING else {"opening": opening}) | (
        {} if data.check_seconds == CPU_SECONDS else {"check_seconds": data.check_seconds})


def _write(path: Path, rows: Iterable[Example | Demonstration]) -> None:
    write_jsonl(path, (asdict(row) for row in rows))
