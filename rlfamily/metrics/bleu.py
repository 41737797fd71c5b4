"""BLEU as the library evaluate has it: a fraction, without smoothing, on sacrebleu's tokens. Corpus level."""

from __future__ import annotations

from typing import Literal

from rlfamily.metrics import Reader, ngrams

VERSION = "1"


class Config(ngrams.Config):
    """See `ngrams`."""

    kind: Literal["bleu"]


def load(config: Config, reader: Reader) -> ngrams.CorpusBleu:
    """It reads no model."""
    return ngrams.CorpusBleu(config)
