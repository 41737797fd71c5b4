"""Train stage: one run of one algorithm at one seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import Field, SerializeAsAny, ValidationInfo, field_validator

from rlfamily import algorithms, curricula, rewards, shaping, tasks
from rlfamily.algorithms.settings import AlgorithmSettings
from rlfamily.hardware import StageHardware
from rlfamily.models import Finetuning
from rlfamily.place import Place
from rlfamily.rollout.settings import Drawing
from rlfamily.settings import Strict
from rlfamily.stages.kind import Versioned, Work

VERSION = "5"
WRITES = {"model/": "weights and tokenizer", "metrics.jsonl": "a training step, numbers that do not depend on clocks",
          "timings.jsonl": "a step's seconds", "samples.jsonl": "a response of the first group of some steps"}
LOGGED = 4  # responses to a prompt in UltraFeedback: for estimates, before the data are there


class Config(Strict):
    """The method and its settings, what it takes of the task, what draws its responses (null: draws none)."""

    algorithm: str
    settings: SerializeAsAny[AlgorithmSettings]
    finetuning: Finetuning
    lesson: tasks.Lesson
    rollout: Drawing | None
    seed: int = Field(ge=0)

    @field_validator("settings", mode="before")
    @classmethod
    def _of_the_algorithm(cls, value: Any, info: ValidationInfo) -> Any:
        return algorithms.get(info.data["algorithm"]).Config.model_validate(value) if isinstance(value, dict) else value


@dataclass(frozen=True)
class Inputs:
    """The task's files, the policy to begin with, the models of the task's reward by name.

    `pairs`, `fitted`, a learned reward in place of the task's own, and `reference`, logged responses with the initial
    policy's log-probs, are there where the method asks for them.
    """

    data: Path
    policy: Path
    rewards: Mapping[str, Path] = field(default_factory=dict)
    pairs: Path | None = None
    fitted: Path | None = None
    reference: Path | None = None


def uses(config: Config) -> Iterator[Versioned]:
    """The method; where it draws responses also the reward, the task's check, and what becomes of both."""
    yield algorithms.get(config.algorithm)
    if config.lesson.reward is not None:
        yield rewards.get(config.lesson.reward.kind)
        yield tasks.get(config.lesson.task)
        yield curricula.get(config.settings.curriculum.kind)
        yield from (shaping.get(one.kind) for one in config.settings.shaping)


def cost(config: Config, hardware: StageHardware) -> Work:
    """Every response at its full length; a batch of several passes goes forward once more at every update."""
    settings, algorithm = config.settings, algorithms.get(config.algorithm)
    rollouts = config.rollout is not None
    rows = {"rollouts": settings.group_size, "pairs": 2, "logged": LOGGED}.get(algorithm.SOURCE, 1)
    total, limits = rows * config.lesson.prompts, config.lesson.limits
    always = "ref" in algorithms.needs(algorithm, settings)
    seen = 1.0 if always else 1 / settings.kl_ref_every if settings.kl_ref_every else 0.0
    backward = 1 if config.finetuning.finetune == "lora" else 2  # frozen weights need no gradient
    batch = Work(limits.max_tokens, settings.batch_prompts * rows, limits.max_new_tokens, rows)
    again = batch.batch * batch.tokens > hardware.micro_tokens or hardware.processes > 1
    return replace(
        batch, trained=total * settings.epochs, passes=settings.inner_updates * (1 + backward + again) + seen,
        drawn=total * (settings.epochs if settings.resample_each_epoch else 1) if rollouts else 0,
        engine=config.rollout.engine if config.rollout else "", reference=seen > 0, processes=hardware.processes)


def run(place: Place, config: Config, inputs: Inputs) -> dict[str, Any]:
    """Train, over several processes where the hardware says so; each of those comes here again."""
    from rlfamily.stages import launched

    if place.hardware.processes > 1 and not launched.inside():
        return launched.relaunched(place)
    from rlfamily.trainer import jobs

    given = jobs.Inputs(inputs.data, inputs.policy / "model", inputs.pairs,
                        inputs.fitted / "model" if inputs.fitted else None, inputs.rewards, inputs.reference)
    return jobs.train_policy(place, given, config.algorithm, config.settings, config.finetuning, config.lesson,
                             config.rollout, config.seed)
