"""Trace stage: what a decoder weighed on the way to some of the held-out responses."""

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
WRITES = {"trace.jsonl": "a candidate: its round, whom it goes on from, its new text, its value, whether it was kept"}


def uses(config: Config) -> Iterator[Versioned]:
    """What the responses themselves use."""
    yield from generate.uses(config)


def cost(config: Config, hardware: StageHardware) -> Work:
    """As the responses themselves, one to a prompt."""
    return generate.cost(config, hardware)


def run(place: Place, config: Config, inputs: Inputs) -> dict[str, Any]:
    """Make the first sampled response to each prompt once more, under watch."""
    from rlfamily.evaluation.guides import GuideFolders
    from rlfamily.evaluation.trace import write_trace

    return write_trace(place, inputs.data, inputs.policy, config.finetuning, config.generation, generate.VERSION,
                       config.guiding, GuideFolders(inputs.rewards, inputs.values, inputs.pair))
