"""Text metrics: numbers of a response beside a reference, by the library that papers name; one file each.

The file system is the registry: `get("rouge_l")` imports `rlfamily/metrics/rouge_l.py`. A task's yaml lists those in
use. Nothing here imports torch, or a metric's library, before a metric is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, Self

from pydantic import SerializeAsAny

from rlfamily.plugins import Plugins
from rlfamily.rewards import HubSource
from rlfamily.settings import Strict, by_kind

if TYPE_CHECKING:
    import torch

NEEDED = "reference"
"""What an example's meta must hold: the text that its responses are compared with."""

Measured = float | list[int]
"""A number of one response; or counts, whose sums over responses make the number (corpus BLEU)."""


class MetricConfig(Strict):
    """Common part of every metric's Config: its file in this folder, and the models it reads, by name."""

    kind: str
    models: dict[str, HubSource]

    def unsourced(self) -> Self:
        """How a response is measured; where models come from is left out."""
        return self.model_copy(update={"models": {}})


@dataclass(frozen=True)
class Reader:
    """The models that a metric reads, by name, and where and how many texts at once."""

    models: Mapping[str, Path]
    device: torch.device
    batch: int


class TextMetric(Protocol):
    """Anything that measures responses. Texts may be empty, long or in any script: each gets a number."""

    def measure(self, responses: Sequence[str], references: Sequence[str]) -> list[Measured]:
        """Response n beside reference n; N in, N out."""
        ...

    def signature(self) -> str:
        """What the numbers depend on: library and version, model and layer, tokenizer, smoothing."""
        ...


class MetricModule(Protocol):
    """What a module in this folder offers. VERSION is changed by hand when its numbers change."""

    VERSION: str
    Config: type[MetricConfig]

    def load(self, config: Any, reader: Reader) -> TextMetric:
        """Make the metric. Raises UserError when a model cannot be loaded."""
        ...


METRICS = Plugins[MetricModule]("metrics", "task.metrics", "metric", ("ngrams",))
names, get = METRICS.names, METRICS.get


AnyMetric = Annotated[SerializeAsAny[MetricConfig], by_kind(lambda kind: get(kind).Config)]


def library(name: str) -> str:
    """A library and its version, for a signature."""
    return f"{name} {version(name)}"


def readable(text: str) -> str:
    """A text that every tokenizer takes: halves of characters (lone surrogates) become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")
