"""Pairs stage: on-policy preference pairs, labelled by the task's reward, ties dropped (report sec. 4, DPO)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from rlfamily import rewards, tasks
from rlfamily.hardware import StageHardware
from rlfamily.models import Finetuning
from rlfamily.place import Place
from rlfamily.settings import Distribution, Strict
from rlfamily.stages.kind import Versioned, Work

VERSION = "5"
WRITES = {"pairs.jsonl": "two responses to a prompt, chosen and rejected, as text and ids, and which were cut short"}


class Config(Strict):
    """Which prompts, what their responses are drawn from, and how the policy's weights are read."""

    lesson: tasks.Lesson
    distribution: Distribution
    finetuning: Finetuning
    engine: Literal["torch", "vllm"]
    seed: int = Field(ge=0)


@dataclass(frozen=True)
class Inputs:
    """The task's files, the policy, and the models that the reward reads, by name."""

    data: Path
    policy: Path
    rewards: Mapping[str, Path] = field(default_factory=dict)


def uses(config: Config) -> Iterator[Versioned]:
    """The reward and the task's check, which label."""
    if config.lesson.reward is not None:
        yield rewards.get(config.lesson.reward.kind)
    yield tasks.get(config.lesson.task)


def cost(config: Config, hardware: StageHardware) -> Work:
    """Two responses a prompt, at their full length."""
    rows, limits = 2 * config.lesson.prompts, config.lesson.limits
    return Work(limits.max_tokens, rows, limits.max_new_tokens, 2, drawn=rows, engine=config.engine)


def run(place: Place, config: Config, inputs: Inputs) -> dict[str, Any]:
    """Raises UserError when every pair is a tie."""
    from rlfamily.evaluation.pairs import write_pairs

    return write_pairs(place, inputs.data, inputs.policy / "model", inputs.rewards, config.lesson, config.distribution,
                       config.finetuning, config.engine, config.seed)
