"""Generate stage: greedy and sampled responses of a policy to held-out prompts, through a decoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlfamily import decoding, rewards, tasks
from rlfamily.hardware import StageHardware
from rlfamily.models import Finetuning
from rlfamily.place import Place
from rlfamily.rollout.settings import Generation, Guiding
from rlfamily.settings import Strict
from rlfamily.stages.kind import Versioned, Work

VERSION = "3"
WRITES = {"responses.jsonl": "a response with its token ids and what it cost (cost_*)"}


class Config(Strict):
    """How the responses are made, and how the policy's weights are read."""

    generation: Generation
    finetuning: Finetuning
    guiding: Guiding | None


@dataclass(frozen=True)
class Inputs:
    """The task's files, the policy, and the models that guide the decoder: of the reward, by name, value functions by
    their number, and a `tuned` and an `untuned` model.
    """

    data: Path
    policy: Path
    rewards: Mapping[str, Path] = field(default_factory=dict)
    values: Mapping[str, Path] = field(default_factory=dict)
    pair: Mapping[str, Path] = field(default_factory=dict)


def uses(config: Config) -> Iterator[Versioned]:
    """The decoder; where it is guided, the task's check and its reward."""
    yield decoding.get(config.generation.decoding.kind)
    if config.guiding is not None:
        yield tasks.get(config.guiding.task)
        if config.guiding.reward is not None:
            yield rewards.get(config.guiding.reward.kind)


def cost(config: Config, hardware: StageHardware) -> Work:
    """Every response at its full length."""
    settings, limits = config.generation, config.generation.limits
    group = settings.greedy + settings.draws
    rows = settings.prompts * group
    return Work(limits.max_tokens, rows, limits.max_new_tokens, group, drawn=rows, engine=settings.engine)


def run(place: Place, config: Config, inputs: Inputs) -> dict[str, Any]:
    """Draw what the pool of samples lacks."""
    from rlfamily.evaluation.generate import write_responses
    from rlfamily.evaluation.guides import GuideFolders

    return write_responses(place, inputs.data, inputs.policy, config.finetuning, config.generation, VERSION,
                           config.guiding, GuideFolders(inputs.rewards, inputs.values, inputs.pair))
