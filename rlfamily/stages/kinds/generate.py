"""Generate stage: greedy and sampled responses of a policy to held-out prompts, through a decoder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlfamily import decoding
from rlfamily.hardware import StageHardware
from rlfamily.models import Finetuning
from rlfamily.place import Place
from rlfamily.rollout.settings import Generation
from rlfamily.settings import Strict
from rlfamily.stages.kind import Versioned, Work

VERSION = "3"
WRITES = {"responses.jsonl": "a response with its token ids and what it cost (cost_*)"}


class Config(Strict):
    """How the responses are made, and how the policy's weights are read."""

    generation: Generation
    finetuning: Finetuning


@dataclass(frozen=True)
class Inputs:
    """The task's files, and the policy."""

    data: Path
    policy: Path


def uses(config: Config) -> Iterator[Versioned]:
    """The decoder."""
    yield decoding.get(config.generation.decoding.kind)


def cost(config: Config, hardware: StageHardware) -> Work:
    """Every response at its full length."""
    settings, limits, group = config.generation, config.generation.limits, 1 + config.generation.draws
    rows = settings.prompts * group
    return Work(limits.max_tokens, rows, limits.max_new_tokens, group, drawn=rows, engine=settings.engine)


def run(place: Place, config: Config, inputs: Inputs) -> dict[str, Any]:
    """Draw what the pool of samples lacks."""
    from rlfamily.evaluation.generate import write_responses

    return write_responses(place, inputs.data, inputs.policy, config.finetuning, config.generation, VERSION)
