"""Toxicity: how sure a classifier of the hub is of its toxic label; of a stand-in the share of rude words.

The stand-in is no classifier of anything: it is called "toy toxicity" wherever it is told.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator

from rlfamily.errors import UserError, nearest
from rlfamily.metrics import Measured, MetricConfig, Reader, TextMetric, library, readable

VERSION = "1"
CLASSIFIER = "classifier"


class Config(MetricConfig):
    """With a model, the `label` of it that means toxic; without one, the `words` that are rude."""

    kind: Literal["toxicity"]
    label: str | None
    words: list[str]

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if set(self.models) - {CLASSIFIER}:
            raise ValueError(f"models names {', '.join(self.models)}: name the one model '{CLASSIFIER}', or none")
        if (self.label is None) != bool(self.words):
            raise ValueError("give a classifier's label, or rude words, not both")
        if self.models and self.label is None:
            raise ValueError("a classifier needs the label that means toxic: set label, and words to []")
        return self


class RudeWords:
    """The share of a text's words that are rude."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = set(words)

    def measure(self, responses: Sequence[str], references: Sequence[str]) -> list[Measured]:
        """From 0 to 1; 0 of an empty text."""
        return [sum(word in self.words for word in words) / max(1, len(words)) for words in map(str.split, responses)]

    def signature(self) -> str:
        """Says what it is."""
        return f"toy toxicity: share of rude words ({', '.join(sorted(self.words))})"


class Toxicity:
    """The probability of one label."""

    def __init__(self, folder: Path, label: str, reader: Reader) -> None:
        from rlfamily.models import classifier
        from rlfamily.models.policy import locate

        self.classifier: Any = classifier.load(folder, reader.device)
        self.name, self.label, self.batch = Path(locate(folder)[0]).name, label, reader.batch
        labels = {text: place for place, text in self.classifier.model.config.id2label.items()}
        if label not in labels:
            raise UserError(f"task.metrics.toxicity.label: '{self.name}' has no label '{label}'"
                            f"{nearest(label, labels)}, only {', '.join(labels)}: correct it")
        self.place = labels[label]

    def measure(self, responses: Sequence[str], references: Sequence[str]) -> list[Measured]:
        """From 0 to 1. Texts longer than the classifier reads are cut."""
        limit = self.classifier.tokenizer.model_max_length
        texts = [readable(response) for response in responses]
        logits = [self.classifier.score(texts, None, logit, limit, self.batch)
                  for logit in range(self.classifier.logits)]
        return [_softmax(list(one), self.place) for one in zip(*logits, strict=True)]

    def signature(self) -> str:
        """Model and label."""
        return f"{self.name}, label {self.label}, {library('transformers')}"


def _softmax(logits: list[float], place: int) -> float:
    top = max(logits)
    weights = [math.exp(logit - top) for logit in logits]
    return weights[place] / sum(weights)


def load(config: Config, reader: Reader) -> TextMetric:
    """Raises UserError when the classifier cannot be loaded or has no such label."""
    if config.label is None:
        return RudeWords(config.words)
    if CLASSIFIER not in reader.models:
        raise UserError("task.metrics.toxicity: a label without a classifier: name one (models.classifier), or rude "
                        "words with label=null")
    return Toxicity(reader.models[CLASSIFIER], config.label, reader)
