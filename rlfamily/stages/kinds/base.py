"""Base stage: a from-scratch stand-in model, pretrained on the task's corpus until it is worth reinforcing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from rlfamily import algorithms, tasks
from rlfamily.algorithms import sft
from rlfamily.errors import UserError
from rlfamily.models import ScratchModel
from rlfamily.place import Place
from rlfamily.rollout.settings import Generation
from rlfamily.settings import Strict
from rlfamily.stages.kind import Versioned

VERSION = "4"
WRITES = {"model/": "weights and tokenizer", "metrics.jsonl": "a training step", "timings.jsonl": "a step's seconds",
          "samples.jsonl": "nothing: no response is drawn"}


class Gate(Strict):
    """The model is refused when the mean of `part` of the task's score, over sampled responses, is below `least`."""

    task: str
    part: str
    least: float
    generation: Generation


class Config(Strict):
    """The model to build, how it is fitted to corpus lines of at most `max_tokens` tokens, and its gate."""

    model: ScratchModel
    settings: sft.Config
    max_tokens: int = Field(gt=0)
    gate: Gate


@dataclass(frozen=True)
class Inputs:
    """The task's files."""

    data: Path


def uses(config: Config) -> Iterator[Versioned]:
    """The supervised loss, and the task's check."""
    yield algorithms.get("sft")
    yield tasks.get(config.gate.task)


def run(place: Place, config: Config, inputs: Inputs) -> dict[str, Any]:
    """Raises UserError when the model stays below its gate."""
    from rlfamily.evaluation.gate import gate_value
    from rlfamily.trainer import jobs

    gate = config.gate
    totals = jobs.pretrain(place, inputs.data, config.model, config.settings, config.max_tokens)
    value = gate_value(place, inputs.data, place.out / "model", config.model, gate.task, gate.part, gate.generation)
    if value < gate.least:
        raise UserError(f"base model: mean '{gate.part}' of its sampled validation responses is {value:z.3f}, less "
                        f"than task.pretrain.gate.least={gate.least}: train longer (task.pretrain.epochs)")
    return {**totals, f"sampled_{gate.part}": value}
