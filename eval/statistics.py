"""Pure array functions behind every interval: arrays and an explicit random stream in, arrays out.

Suffixes: D bootstrap draws, S seeds, I items (held-out puzzles, examples or training steps).

The bootstrap is hierarchical: a draw resamples seeds, and inside them items. Items of held-out scores are the same
puzzles in every row, so every row reuses one draw of puzzles and one draw of seeds (`stream` gives equal names equal
randomness): subtracting the draws of two rows *is* the paired bootstrap. Steps of a run depend on their neighbours,
so they are resampled in blocks.

Limits, stated where the numbers are made: with one seed the interval holds item noise only; with S seeds a draw takes
S-1 of them (Rao and Wu 1988), which makes the variance of the mean unbiased, but where seeds differ by more than
their items do, three seeds give about the range of the three, which covers about 75 % rather than 95 %. The best of S
seeds is resampled with S of S: a draw misses the best one in about a third of the cases, so the interval reaches from
somewhat below the best seed to little above it. It says how lucky the best was, not how good another best would be.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from eval import length_controlled

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Statistic = Callable[[Floats, Floats], Floats]

DRAWS = 2000
LEVEL = 0.95
PSEUDO = 4  # 1.96 squared, rounded: Agresti and Coull 1998
COINS = 2  # they fall in pairs: one right of n still admits a rate near 0, and four to none decide nothing


def stream(*names: object) -> np.random.Generator:
    """Return the random stream of these names: equal names, equal stream, on any machine and in any order."""
    digest = hashlib.blake2b(repr(names).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def mean(values_DI: Floats, times_DI: Floats) -> Floats:
    """Mean over items."""
    return values_DI.mean(axis=-1)


def total(values_DI: Floats, times_DI: Floats) -> Floats:
    """Sum over items."""
    return values_DI.sum(axis=-1)


def std(values_DI: Floats, times_DI: Floats) -> Floats:
    """Standard deviation over items, with I-1 in the denominator."""
    return values_DI.std(axis=-1, ddof=1)


def slope(values_DI: Floats, times_DI: Floats) -> Floats:
    """Least-squares slope of values against times; 0 where all times are equal."""
    centred_DI = times_DI - times_DI.mean(axis=-1, keepdims=True)
    spread_D = (centred_DI**2).sum(axis=-1)
    covariance_D = (centred_DI * values_DI).sum(axis=-1)
    return np.divide(covariance_D, spread_D, out=np.zeros_like(spread_D), where=spread_D > 0)


def last(values_DI: Floats, times_DI: Floats) -> Floats:
    """The value at the greatest time."""
    latest_D1 = times_DI.argmax(axis=-1)[..., None]
    return np.take_along_axis(values_DI, latest_D1, axis=-1)[..., 0]


def spread(means_DT: Floats) -> Floats:
    """Standard deviation over the trials, with T-1 in the denominator."""
    return np.asarray(means_DT.std(axis=-1, ddof=1))


def trial_means(counts_DI: Floats, values_IT: Floats) -> Floats:
    """Mean over items of each trial [D, T], each item as often as it counts; nan is what a trial lacks of an item.

    A draw that leaves nothing of a trial says what all of it says.
    """
    there_IT = np.isfinite(values_IT)
    rows_DT = counts_DI @ there_IT
    sums_DT = counts_DI @ np.where(there_IT, values_IT, 0.0)
    whole_T = np.where(there_IT, values_IT, 0.0).sum(axis=0) / there_IT.sum(axis=0)
    return np.divide(sums_DT, rows_DT, out=np.broadcast_to(whole_T, sums_DT.shape).copy(), where=rows_DT > 0)


def trial_std(values_IT: Floats, times_I: Floats) -> Floats:
    """Standard deviation over trials of the mean over items: how far single repetitions of the evaluation scatter."""
    return np.asarray(spread(trial_means(np.ones((1, len(values_IT))), values_IT))[0])


def bleu(sums_D10: Floats, smooth: bool) -> Floats:
    """Corpus BLEU [D] from 0 to 100, as sacrebleu's `BLEU.compute_bleu` has it, of the sums over a corpus.

    The ten: length, length of the references, matches of 1- to 4-grams, and 1- to 4-grams there are. `smooth`: the
    k-th order without a match counts as 1/2^k of one; else such an order makes 0.
    """
    sums = np.asarray(sums_D10, dtype=float)
    length_D, reference_D, matches_D4, there_D4 = sums[..., 0], sums[..., 1], sums[..., 2:6], sums[..., 6:10]
    halves_D4 = np.where(matches_D4 == 0, 0.5, 1.0).cumprod(axis=-1)
    counted_D4 = np.where(matches_D4 == 0, halves_D4 if smooth else 0.0, matches_D4)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision_D = np.exp(np.log(counted_D4 / there_D4).mean(axis=-1))
        brevity_D = np.exp(np.minimum(0.0, 1 - reference_D / length_D))
    defined_D = matches_D4.any(axis=-1) & (there_D4 > 0).all(axis=-1)
    return np.where(defined_D, 100 * np.nan_to_num(brevity_D) * np.nan_to_num(precision_D, posinf=0.0), 0.0)


def corpus_bleu(values_I10: Floats, times_I: Floats) -> Floats:
    """Without smoothing, of the sums over items."""
    return bleu(values_I10.sum(axis=-2), smooth=False)


def corpus_sacrebleu(values_I10: Floats, times_I: Floats) -> Floats:
    """With smoothing, of the sums over items."""
    return bleu(values_I10.sum(axis=-2), smooth=True)


def lc_win_rate(values_IN: Floats, times_I: Floats) -> Floats:
    """The length-controlled win rate (`length_controlled`)."""
    return np.asarray(length_controlled.win_rate(values_IN))


REDUCE: dict[str, Statistic] = {
    "mean": mean, "sum": total, "std": std, "slope": slope, "last": last, "trial_std": trial_std,
    "corpus_bleu": corpus_bleu, "corpus_sacrebleu": corpus_sacrebleu, "lc_win_rate": lc_win_rate}
LEAST_ITEMS = {"mean": 1, "sum": 1, "std": 2, "slope": 8, "last": 1, "trial_std": 2, "corpus_bleu": 1,
               "corpus_sacrebleu": 1, "lc_win_rate": 10}
SUMMED = {"corpus_bleu": False, "corpus_sacrebleu": True}  # those of sums over items, and whether they are smoothed
BLEU_COUNTS = 10


def block_length(steps: int) -> int:
    """Length of the blocks in which dependent steps are resampled: the cube root of their number, at least 1."""
    return max(1, round(steps ** (1 / 3)))


def item_draws(rng: np.random.Generator, items: int, draws: int, block: int) -> Ints:
    """Indices [D, I] of resampled items, in circular blocks of `block` neighbours (1: independent items)."""
    starts_DB = rng.integers(items, size=(draws, -(-items // block)))
    runs_DBL = starts_DB[:, :, None] + np.arange(block)
    return np.asarray(runs_DBL.reshape(draws, -1)[:, :items] % items, dtype=np.int64)


def block_means(rng: np.random.Generator, values_I: Floats, draws: int, block: int) -> Floats:
    """Means [D] over the items that `item_draws` would take: sums over blocks are differences of running sums."""
    items = len(values_I)
    starts_DB = rng.integers(items, size=(draws, -(-items // block)))
    running = np.concatenate([[0.0], np.cumsum(np.concatenate([values_I, values_I[:block]]))])
    ends_DB = starts_DB + block
    ends_DB[:, -1] += items - starts_DB.shape[1] * block  # the last block is cut to fit
    return np.asarray((running[ends_DB] - running[starts_DB]).sum(axis=1) / items)


def counts(indices_DI: Ints, items: int) -> Floats:
    """How often each item is in each draw [D, I]: the mean over a draw's items is counts @ values / I."""
    draws = len(indices_DI)
    flat = indices_DI + np.arange(draws)[:, None] * items
    return np.bincount(flat.ravel(), minlength=draws * items).reshape(draws, items).astype(float)


def seed_weights(rng: np.random.Generator, seeds: int, draws: int) -> Floats:
    """Weights [D, S], summing to 1, of resampled seeds: S-1 of S with replacement; a lone seed has weight 1."""
    size = max(1, seeds - 1)
    return rng.multinomial(size, np.full(seeds, 1 / seeds), size=draws) / size


def seed_statistics(
    values_I: Floats, times_I: Floats, indices_DI: Ints, statistic: Statistic
) -> Floats:
    """The statistic [D] of one seed's resampled items."""
    return statistic(values_I[indices_DI], times_I[indices_DI])


def combine(statistics_DS: Floats, weights_DS: Floats) -> Floats:
    """Draws [D] of the mean over seeds, from each seed's resampled statistic and the resampled seeds' weights."""
    return (statistics_DS * weights_DS).sum(axis=1)


def best(statistics_DS: Floats, chosen_DS: Ints) -> Floats:
    """Draws [D] of the greatest over seeds, among each draw's resampled seeds."""
    return np.asarray(np.take_along_axis(statistics_DS, chosen_DS, axis=1).max(axis=1))


def widened(rng: np.random.Generator, draws_D: Floats, items: int, one: float) -> Floats:
    """Draws of a rate over `items` outcomes of 0 or `one`, with the doubt that few of them leave.

    Every draw counts PSEUDO further outcomes, each by chance right or wrong: the interval is about Wilson's, or a
    little wider, also at rates of 0 and 1, and the difference of two rows is as unsure as the exact paired (sign)
    test of few items is.
    """
    right_D = PSEUDO / COINS * rng.binomial(COINS, 0.5, size=len(draws_D))
    return np.asarray((draws_D * items + one * right_D) / (items + PSEUDO))


def pass_at(k: int, right: float, draws: int) -> float:
    """Chance that k of `draws` responses, taken without replacement, hold one of the `right` ones (unbiased)."""
    return 1.0 - math.comb(draws - round(right), k) / math.comb(draws, k)


def best_of(k: int, ranked: Sequence[float]) -> float:
    """Mean of what ranks first among k of the draws, taken without replacement (unbiased).

    `ranked` are the draws' values, the worst first: the i-th of n is first in C(i-1, k-1) of C(n, k) choices.
    """
    ways = [math.comb(place, k - 1) for place in range(len(ranked))]
    return sum(way * value for way, value in zip(ways, ranked, strict=True)) / math.comb(len(ranked), k)


def interval(draws_D: Floats, level: float = LEVEL) -> tuple[float, float]:
    """Percentile interval that holds `level` of the draws."""
    low, high = np.quantile(draws_D, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def probability(holds_D: NDArray[np.bool_]) -> float:
    """Share of the draws in which a statement holds."""
    return float(np.mean(holds_D))
