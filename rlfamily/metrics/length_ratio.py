"""Words of a response by words of its reference; words stand between blanks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rlfamily.metrics import Measured, MetricConfig, Reader

VERSION = "1"


class Config(MetricConfig):
    """Nothing to set."""

    kind: Literal["length_ratio"]


class LengthRatio:
    """No library is needed."""

    def measure(self, responses: Sequence[str], references: Sequence[str]) -> list[Measured]:
        """An empty reference counts as one word."""
        return [len(response.split()) / max(1, len(reference.split()))
                for response, reference in zip(responses, references, strict=True)]

    def signature(self) -> str:
        """How words are counted."""
        return "words between blanks"


def load(config: Config, reader: Reader) -> LengthRatio:
    """It reads no model."""
    return LengthRatio()
