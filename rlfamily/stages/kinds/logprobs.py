"""Log-probs stage: mean token log-prob of each demonstration under a policy, train and validation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from rlfamily.models import Finetuning
from rlfamily.place import Place
from rlfamily.settings import Strict

VERSION = "3"
WRITES = {"logprobs.jsonl": "a demonstration's mean log-prob, of its completion and of all its tokens"}


class Config(Strict):
    """How the policy's weights are read, and where demonstrations are cut."""

    finetuning: Finetuning
    max_tokens: int = Field(gt=0)


@dataclass(frozen=True)
class Inputs:
    """The task's files, and the policy."""

    data: Path
    policy: Path


def run(place: Place, config: Config, inputs: Inputs) -> dict[str, Any]:
    """Evaluate every demonstration."""
    from rlfamily.evaluation.logprobs import write_logprobs

    return write_logprobs(place, inputs.data, inputs.policy / "model", config.finetuning, config.max_tokens)
