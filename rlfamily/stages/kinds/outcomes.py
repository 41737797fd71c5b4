"""Outcomes stage: responses to training prompts and what they are worth, for value functions to learn from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from rlfamily import decoding, rewards, tasks
from rlfamily.hardware import StageHardware
from rlfamily.models import Finetuning
from rlfamily.place import Place
from rlfamily.rollout.settings import Generation, Guiding
from rlfamily.settings import Strict
from rlfamily.stages.kind import Versioned, Work
from rlfamily.stages.kinds.generate import Inputs
from rlfamily.tasks import Lesson

VERSION = "2"
__all__ = ["VERSION", "WRITES", "Config", "Inputs", "cost", "run", "uses"]
WRITES = {"outcomes.jsonl": "a response as text and as the policy's tokens, and its reward; a prompt's together"}


class Config(Strict):
    """What is taken of the task, how responses are made, which are kept: see `ValueSource`."""

    lesson: Lesson
    generation: Generation
    finetuning: Finetuning
    guiding: Guiding
    keep: Literal["returned", "finalists"]
    seed: int = Field(ge=0)


def uses(config: Config) -> Iterator[Versioned]:
    """The decoder, the task's check and its reward."""
    yield decoding.get(config.generation.decoding.kind)
    yield tasks.get(config.lesson.task)
    if config.lesson.reward is not None:
        yield rewards.get(config.lesson.reward.kind)


def cost(config: Config, hardware: StageHardware) -> Work:
    """Every response at its full length, and every candidate that it is chosen from."""
    settings, limits = config.generation, config.generation.limits
    group = settings.draws * settings.decoding.rows
    rows = settings.prompts * group
    return Work(limits.max_tokens, rows, limits.max_new_tokens, group, drawn=rows, engine=settings.engine)


def run(place: Place, config: Config, inputs: Inputs) -> dict[str, Any]:
    """Draw what the pool of samples lacks, and rate it."""
    from rlfamily.evaluation.guides import GuideFolders
    from rlfamily.evaluation.outcomes import write_outcomes

    folders = GuideFolders(inputs.rewards, inputs.values, inputs.pair)
    return write_outcomes(place, inputs.data, inputs.policy, folders, config, VERSION)
