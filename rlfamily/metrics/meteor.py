"""METEOR (Banerjee and Lavie 2005) by nltk. Without WordNet no synonyms match: that is METEOR (exact+stem)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from rlfamily.errors import UserError
from rlfamily.metrics import Measured, MetricConfig, Reader, library
from rlfamily.settings import Location

VERSION = "1"


class Config(MetricConfig):
    """`wordnet` is a folder of nltk's data with corpora/wordnet in it; null matches words and stems alone.

    `alpha` weighs precision against recall, `beta` and `gamma` shape the penalty of scattered matches.
    """

    kind: Literal["meteor"]
    wordnet: Location | None
    alpha: float = Field(gt=0, le=1)
    beta: float = Field(ge=0)
    gamma: float = Field(ge=0, le=1)


class NoSynonyms:
    """In WordNet's place."""

    def synsets(self, word: str) -> list[Any]:
        """No word has a synonym."""
        return []


class Meteor:
    """Words as nltk's tokenizer for English cuts them, which needs no data."""

    def __init__(self, config: Config) -> None:
        from nltk.tokenize import NLTKWordTokenizer
        from nltk.translate.meteor_score import meteor_score

        self.config, self.score, self.words = config, meteor_score, NLTKWordTokenizer().tokenize
        self.wordnet: Any = NoSynonyms() if config.wordnet is None else _wordnet(config.wordnet)

    def measure(self, responses: Sequence[str], references: Sequence[str]) -> list[Measured]:
        """From 0 to 1; 0 where one of both is empty."""
        settings = self.config.model_dump(include={"alpha", "beta", "gamma"})
        return [float(self.score([self.words(reference)], self.words(response), wordnet=self.wordnet, **settings))
                if response.strip() and reference.strip() else 0.0
                for response, reference in zip(responses, references, strict=True)]

    def signature(self) -> str:
        """Library, and what may match."""
        return f"METEOR ({'exact+stem' if self.config.wordnet is None else 'exact+stem+synonym'}), {library('nltk')}"


def _wordnet(folder: str) -> Any:
    import nltk
    from nltk.corpus import wordnet

    if not (Path(folder) / "corpora").is_dir():
        raise UserError(f"task.metrics.meteor.wordnet: '{folder}' has no folder corpora: give a folder of nltk's data, "
                        "or null for words and stems alone")
    nltk.data.path.insert(0, folder)
    try:
        wordnet.ensure_loaded()
    except (LookupError, OSError) as error:
        raise UserError(f"task.metrics.meteor.wordnet: WordNet in '{folder}' cannot be read: give a folder of nltk's "
                        "data with corpora/wordnet, or null for words and stems alone") from error
    return wordnet


def load(config: Config, reader: Reader) -> Meteor:
    """It reads no model. Raises UserError when WordNet is asked for and not there."""
    return Meteor(config)
