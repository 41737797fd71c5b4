"""Lengths stage: whether every prompt leaves room for a response, before anything is trained.

It stands beside the stages that train and draw, which wait for it and do not read it: the data stage knows no model, so
that models share it, and a limit of the evaluation changes no trained policy's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from rlfamily.place import Place
from rlfamily.settings import Strict

VERSION = "1"
WRITES = {"lengths.json": "of every split its rows, its longest prompt in tokens, and the limit it is held to"}


class Config(Strict):
    """The task's limits in tokens, and how many test prompts are evaluated."""

    max_tokens_rollout: int = Field(gt=0)
    max_tokens_evaluation: int = Field(gt=0)
    max_tokens_demonstration: int = Field(gt=0)
    eval_prompts: int = Field(gt=0)


@dataclass(frozen=True)
class Inputs:
    """The task's files, and a published model; without one, the tokenizer is that of the task's vocabulary."""

    data: Path
    model: Path | None = None


def run(place: Place, config: Config, inputs: Inputs) -> dict[str, Any]:
    """Raises UserError for a prompt that leaves no room, and for fewer test prompts than are to be evaluated."""
    from rlfamily.evaluation.lengths import write_lengths

    return write_lengths(place, inputs.data, inputs.model and inputs.model / "model", config.max_tokens_rollout,
                         config.max_tokens_evaluation, config.max_tokens_demonstration, config.eval_prompts)
