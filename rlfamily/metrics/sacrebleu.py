"""SacreBLEU (Post 2018): from 0 to 100, with exponential smoothing. Corpus level."""

from __future__ import annotations

from typing import Literal

from rlfamily.metrics import Reader, ngrams

VERSION = "1"


class Config(ngrams.Config):
    """See `ngrams`."""

    kind: Literal["sacrebleu"]


def load(config: Config, reader: Reader) -> ngrams.CorpusBleu:
    """It reads no model."""
    return ngrams.CorpusBleu(config)
