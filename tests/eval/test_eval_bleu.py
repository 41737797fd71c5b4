"""Corpus BLEU from the counts of rows: sacrebleu's own number, and its interval by resampled items."""

from __future__ import annotations

import time

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU

from eval import statistics


@pytest.mark.parametrize("smooth", [False, True])
def test_it_is_sacrebleus_formula(smooth: bool) -> None:
    rng = np.random.default_rng(0)
    there = rng.integers(0, 30, size=(2000, 1)) - np.arange(4)
    there = np.maximum(0, there)
    matches = (there * rng.random((2000, 4)) * (rng.random((2000, 4)) < 0.7)).astype(int)
    sums = np.concatenate([there[:, :1], rng.integers(1, 40, size=(2000, 1)), matches, there], axis=1)
    theirs = [BLEU.compute_bleu(correct=list(row[2:6]), total=list(row[6:]), sys_len=int(row[0]), ref_len=int(row[1]),
                                smooth_method="exp" if smooth else "none").score for row in sums]
    assert statistics.bleu(sums.astype(float), smooth) == pytest.approx(theirs, abs=1e-9)
    assert 0 < np.count_nonzero(theirs) < 2000


def test_sums_of_rows_give_the_corpus_score() -> None:
    responses = ["the cat sat on the mat", "a dog", "", "it rains in the old town today"]
    references = ["the cat sat on a mat", "the dog barks", "nothing", "it rains in town today"]
    bleu = BLEU()
    score = bleu.corpus_score(responses, [references]).score
    counts = np.array(bleu._extract_corpus_statistics(responses, [references]), dtype=float)
    assert statistics.corpus_sacrebleu(counts, np.arange(4.0)) == pytest.approx(score)


def test_draws_are_quick() -> None:
    start = time.process_time()
    statistics.bleu(np.ones((statistics.DRAWS, 10)), smooth=True)
    assert time.process_time() - start < 1
