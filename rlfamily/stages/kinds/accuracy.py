"""Accuracy stage: how often a reward orders held-out pairs as their labels do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlfamily import rewards, tasks
from rlfamily.place import Place
from rlfamily.settings import Strict
from rlfamily.stages.kind import Versioned

VERSION = "1"
WRITES = {"accuracy.jsonl": "a held-out pair with whether the reward orders it as its label does, and by how much"}


class Config(Strict):
    """The reward, and the task whose check stands beside it."""

    task: str
    reward: rewards.AnyReward


@dataclass(frozen=True)
class Inputs:
    """The task's files, and the models that the reward reads, by name."""

    data: Path
    rewards: Mapping[str, Path]


def uses(config: Config) -> Iterator[Versioned]:
    """The reward, and the task's check."""
    yield rewards.get(config.reward.kind)
    yield tasks.get(config.task)


def run(place: Place, config: Config, inputs: Inputs) -> dict[str, Any]:
    """Score both responses of every pair."""
    from rlfamily.evaluation.accuracy import write_accuracy

    return write_accuracy(place, inputs.data, inputs.rewards, config.task, config.reward)
