"""Latency stage: how long a response takes, and what memory, one prompt at a time and nothing kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rlfamily.hardware import StageHardware
from rlfamily.place import Place
from rlfamily.stages.kind import Versioned, Work
from rlfamily.stages.kinds import generate
from rlfamily.stages.kinds.generate import Config, Inputs

VERSION = "1"
__all__ = ["VERSION", "WRITES", "Config", "Inputs", "cost", "run", "uses"]
WRITES = {"latency.jsonl": "a response's seconds, CPU seconds, tokens, and the most memory that its making took so far"}


def uses(config: Config) -> Iterator[Versioned]:
    """What the responses themselves use."""
    yield from generate.uses(config)


def cost(config: Config, hardware: StageHardware) -> Work:
    """As the responses themselves, one to a prompt."""
    return generate.cost(config, hardware)


def run(place: Place, config: Config, inputs: Inputs) -> dict[str, Any]:
    """Time a response to each prompt."""
    from rlfamily.evaluation.guides import GuideFolders
    from rlfamily.evaluation.latency import write_latency

    return write_latency(place, inputs.data, inputs.policy, config.finetuning, config.generation, config.guiding,
                         GuideFolders(inputs.rewards, inputs.values, inputs.pair))
