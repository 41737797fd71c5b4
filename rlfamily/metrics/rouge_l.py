"""ROUGE-L (Lin 2004): F-measure of the longest common subsequence of words, by rouge-score.

Its words are of Latin letters and digits: text in another script has 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from rlfamily.metrics import Measured, MetricConfig, Reader, library

VERSION = "1"


class Config(MetricConfig):
    """`stemmer`: words that differ by their ending match."""

    kind: Literal["rouge_l"]
    stemmer: bool


class RougeL:
    """One scorer for all texts."""

    def __init__(self, stemmer: bool) -> None:
        from rouge_score.rouge_scorer import RougeScorer

        self.stemmer, self.scorer = stemmer, RougeScorer(["rougeL"], use_stemmer=stemmer)

    def measure(self, responses: Sequence[str], references: Sequence[str]) -> list[Measured]:
        """From 0 to 1."""
        def one(response: str, reference: str) -> float:
            scores: Any = self.scorer.score(reference, response)
            return float(scores["rougeL"].fmeasure)

        return [one(response, reference) for response, reference in zip(responses, references, strict=True)]

    def signature(self) -> str:
        """Library, and whether words are stemmed."""
        return f"{library('rouge-score')}, {'stemmed' if self.stemmer else 'not stemmed'}"


def load(config: Config, reader: Reader) -> RougeL:
    """It reads no model."""
    return RougeL(config.stemmer)
