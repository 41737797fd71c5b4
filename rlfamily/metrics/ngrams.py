"""What BLEU is made of, by sacrebleu: counts of n-grams, whose sums over all responses make the number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from rlfamily.metrics import Measured, MetricConfig, library


class Config(MetricConfig):
    """The text is cut by `tokenizer`; orders of n-grams without a match are smoothed (exp), or make 0 (none)."""

    tokenizer: Literal["13a", "intl", "char", "none"]
    smoothing: Literal["exp", "none"]


class CorpusBleu:
    """The statistics of each response: its length, the reference's, four counts of matches, four of n-grams."""

    def __init__(self, config: Config) -> None:
        from sacrebleu.metrics.bleu import BLEU

        self.bleu: Any = BLEU(tokenize=config.tokenizer, smooth_method=config.smoothing)
        self.bleu.corpus_score(["a"], [["a"]])  # its signature exists only after a score

    def measure(self, responses: Sequence[str], references: Sequence[str]) -> list[Measured]:
        """Ten whole numbers a response; what they sum to is reduced by `eval.statistics`."""
        if not responses:
            return []
        counts = self.bleu._extract_corpus_statistics(list(responses), [list(references)])
        return [[int(one) for one in row] for row in counts]

    def signature(self) -> str:
        """Sacrebleu's own."""
        return f"{library('sacrebleu')} ({self.bleu.get_signature()})"
