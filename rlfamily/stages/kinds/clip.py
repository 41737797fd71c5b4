"""CLIP stage: a stand-in's small CLIP, trained from scratch on the task's own pictures and captions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlfamily.place import Place
from rlfamily.rewards import ContrastiveSource
from rlfamily.settings import Strict

VERSION = "2"
WRITES = {"model/": "weights, tokenizer, image processor and the reference images"}


class Config(Strict):
    """The model to build and fit."""

    source: ContrastiveSource


@dataclass(frozen=True)
class Inputs:
    """The task's files."""

    data: Path


def run(place: Place, config: Config, inputs: Inputs) -> dict[str, Any]:
    """Raises UserError below min_recall."""
    from rlfamily.trainer import contrastive

    return contrastive.train(place, inputs.data, config.source)
