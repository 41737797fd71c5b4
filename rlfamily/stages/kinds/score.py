"""Score stage: held-out responses measured by the task's reward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlfamily import rewards, tasks
from rlfamily.place import Place
from rlfamily.settings import Strict
from rlfamily.stages.kind import Versioned

VERSION = "3"
WRITES = {"scores.jsonl": "a response with its reward, the reward's parts and what the task tells of it"}


class Config(Strict):
    """The reward, and the task whose check stands beside it."""

    task: str
    reward: rewards.AnyReward


@dataclass(frozen=True)
class Inputs:
    """The task's files, the responses, and the models that the reward reads, by name."""

    data: Path
    responses: Path
    rewards: Mapping[str, Path] = field(default_factory=dict)


def uses(config: Config) -> Iterator[Versioned]:
    """The reward and the task's check."""
    yield rewards.get(config.reward.kind)
    yield tasks.get(config.task)


def run(place: Place, config: Config, inputs: Inputs) -> dict[str, Any]:
    """Score every response."""
    from rlfamily.evaluation.score import write_scores

    return write_scores(place, inputs.data, inputs.responses, inputs.rewards, config.task, config.reward)
