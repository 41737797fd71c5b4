"""Targets stage: what RPO's regression asks of every logged response, for one partition and temperature."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from rlfamily import algorithms
from rlfamily.algorithms import rpo
from rlfamily.place import Place
from rlfamily.settings import Strict
from rlfamily.stages.kind import Versioned

VERSION = "1"
WRITES = {"targets.jsonl": "a logged response with the log-ratio that the regression asks for"}


class Config(Strict):
    """The settings of RPO that its targets depend on."""

    partition: rpo.Partition
    log_ratio: Literal["mean", "sum"]
    tau: float = Field(gt=0)


@dataclass(frozen=True)
class Inputs:
    """Logged responses with their log-probs under the initial policy."""

    reference: Path


def uses(config: Config) -> Iterator[Versioned]:
    """The method."""
    yield algorithms.get("rpo")


def run(place: Place, config: Config, inputs: Inputs) -> dict[str, Any]:
    """Compute every target; nothing is trained."""
    from rlfamily.evaluation.targets import write_targets

    return write_targets(place, inputs.reference, rpo.Config.model_construct(**config.model_dump()))
