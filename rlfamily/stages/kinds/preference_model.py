"""Preference-model stage: a stand-in's reward model, trained from scratch on the task's own preferences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from rlfamily.place import Place
from rlfamily.rewards import AnyFitted, bradley_terry
from rlfamily.settings import Strict
from rlfamily.stages.kind import Versioned

VERSION = "3"
WRITES = {"model/": "weights, tokenizer and the bias of the scores", "metrics.jsonl": "a training step",
          "timings.jsonl": "a step's seconds", "samples.jsonl": "nothing: no response is drawn"}


class Config(Strict):
    """The model to build and fit, to preferences of at most `max_tokens` tokens a row."""

    source: AnyFitted
    max_tokens: int = Field(gt=0)


@dataclass(frozen=True)
class Inputs:
    """The task's files."""

    data: Path


def uses(config: Config) -> Iterator[Versioned]:
    """The loss."""
    yield bradley_terry


def run(place: Place, config: Config, inputs: Inputs) -> dict[str, Any]:
    """Raises UserError below min_accuracy."""
    from rlfamily.trainer import preference

    return preference.train_from_scratch(place, inputs.data, config.source, config.max_tokens)
