"""Reference stage: log-probs of all logged responses under the initial policy, shared by every run that needs them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from rlfamily.models import Finetuning
from rlfamily.place import Place
from rlfamily.settings import Strict

VERSION = "1"
WRITES = {"train.safetensors": "logged responses as tokens, a prompt's together, with rewards and log-probs",
          "validation.safetensors": "the same of the validation split"}


class Config(Strict):
    """How the policy's weights are read, and where responses are cut."""

    finetuning: Finetuning
    max_tokens: int = Field(gt=0)


@dataclass(frozen=True)
class Inputs:
    """The task's files, and the policy that training starts from."""

    data: Path
    policy: Path


def run(place: Place, config: Config, inputs: Inputs) -> dict[str, Any]:
    """Evaluate every logged response once. Raises UserError where nothing can be learned from them."""
    from rlfamily.evaluation.reference import write_reference

    return write_reference(place, inputs.data, inputs.policy / "model", config.finetuning, config.max_tokens)
