"""Data stage: the task's puzzles, demonstrations and corpus, as files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rlfamily import tasks
from rlfamily.place import Place
from rlfamily.settings import Strict
from rlfamily.stages.kind import Versioned

VERSION = "2"
WRITES = {
    "train.jsonl": "a prompt to learn from", "validation.jsonl": "a prompt of the gate",
    "test.jsonl": "a held-out prompt", "demonstrations_train.jsonl": "a prompt with a completion to imitate",
    "demonstrations_validation.jsonl": "the same, held out", "corpus.jsonl": "the same, for base models",
    "vocabulary.json": "every word that may occur", "preferences_<name>.jsonl": "a prompt with two ordered responses",
    "pairs_test.jsonl": "the same, held out, with its subset",
}


class Config(Strict):
    """What the task's files depend on."""

    task: tasks.AnyData


@dataclass(frozen=True)
class Inputs:
    """None."""


def uses(config: Config) -> Iterator[Versioned]:
    """The task, which makes the files."""
    yield tasks.get(config.task.kind)


def run(place: Place, config: Config, inputs: Inputs) -> dict[str, Any]:
    """Write the splits (see `rlfamily.tasks.Task.build`)."""
    return tasks.get(config.task.kind).build(config.task, place.out)
