"""Reward-model stage: Bradley-Terry training on preference pairs (report Eq. 3)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from rlfamily.hardware import StageHardware
from rlfamily.models import Finetuning
from rlfamily.place import Place
from rlfamily.rewards import bradley_terry
from rlfamily.settings import RewardModelSettings, Strict
from rlfamily.stages.kind import Versioned, Work

VERSION = "3"
WRITES = {"model/": "weights, tokenizer and the bias of the scores", "metrics.jsonl": "a training step",
          "timings.jsonl": "a step's seconds", "samples.jsonl": "nothing: no response is drawn"}


class Config(Strict):
    """How it is fitted, to pairs of at most `max_tokens` tokens a row."""

    settings: RewardModelSettings
    finetuning: Finetuning
    max_tokens: int = Field(gt=0)
    seed: int = Field(ge=0)


@dataclass(frozen=True)
class Inputs:
    """The task's files, the policy whose backbone it takes, and that policy's pairs."""

    data: Path
    policy: Path
    pairs: Path


def uses(config: Config) -> Iterator[Versioned]:
    """The loss."""
    yield bradley_terry


def cost(config: Config, hardware: StageHardware) -> Work:
    """Forward and backward over both rows of every pair."""
    pairs = config.settings.prompts * config.settings.epochs
    return Work(config.max_tokens, 2 * config.settings.batch_pairs, trained=2 * pairs, passes=3)


def run(place: Place, config: Config, inputs: Inputs) -> dict[str, Any]:
    """Fit the pairs."""
    from rlfamily.trainer import preference

    return preference.train_on_own_pairs(place, inputs.data, inputs.policy / "model", inputs.pairs, config.settings,
                                         config.finetuning, config.max_tokens, config.seed)
