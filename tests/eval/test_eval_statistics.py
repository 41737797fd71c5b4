"""Intervals: hand-worked numbers first, then laws and coverage."""

from __future__ import annotations

import numpy as np
import pytest

from eval import statistics
from eval.statistics import REDUCE, combine, interval, item_draws, seed_weights, stream


def draws_of(values_SI, reduce="mean", block=1, name="test"):
    """The whole bootstrap of one entry, as eval.entries composes it."""
    seeds, items = values_SI.shape
    indices_DI = item_draws(stream(name), items, 2000, block)
    times_I = np.arange(items, dtype=float)
    drawn = [statistics.seed_statistics(row_I, times_I, indices_DI, REDUCE[reduce]) for row_I in values_SI]
    return combine(np.stack(drawn, axis=1), seed_weights(stream("seeds", seeds), seeds, 2000))


def test_statistics_of_four_values_by_hand():
    values, times = np.array([[1.0, 2.0, 3.0, 6.0]]), np.array([[0.0, 1.0, 2.0, 3.0]])
    # mean 12/4; deviations -2 -1 0 3, squares 14, 14/3; slope (-1.5*-2 + -.5*-1 + .5*0 + 1.5*3) / 5 = 8/5
    assert statistics.mean(values, times) == pytest.approx([3.0])
    assert statistics.std(values, times) == pytest.approx([(14 / 3) ** 0.5])
    assert statistics.slope(values, times) == pytest.approx([1.6])
    assert statistics.last(values, times) == pytest.approx([6.0])


def test_every_draw_has_its_own_statistic():
    """A draw is a row: the same draws apart and together."""
    rng = np.random.default_rng(0)
    values, times = rng.normal(0, 1, (3, 9)), rng.integers(0, 40, (3, 9)).astype(float)
    for name in ("mean", "std", "slope", "last"):
        apart = [REDUCE[name](values[one:one + 1], times[one:one + 1])[0] for one in range(3)]
        assert REDUCE[name](values, times) == pytest.approx(apart), name
        assert REDUCE[name](values[0], times[0]) == pytest.approx(apart[0]), name  # of the data themselves


def test_slope_of_equal_times_is_zero():
    assert statistics.slope(np.array([[1.0, 2.0]]), np.array([[3.0, 3.0]])) == pytest.approx([0.0])


def test_interval_by_hand():
    # 0..100: the middle 95 % runs from the 2.5 % to the 97.5 % point
    assert interval(np.arange(101.0)) == pytest.approx((2.5, 97.5))


def test_one_seed_two_items_by_hand():
    # Resampling {0, 1} gives 00, 01, 10, 11: mean 0, 1/2, 1 with probability 1/4, 1/2, 1/4.
    draws = draws_of(np.array([[0.0, 1.0]]))
    shares = [np.mean(draws == value) for value in (0.0, 0.5, 1.0)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.04)


def test_three_seeds_without_item_noise_by_hand():
    # Two of three seeds with replacement: the mean of 0, 3, 6 is one of 0, 1.5, 3, 4.5, 6, with probability
    # 1/9, 2/9, 3/9, 2/9, 1/9. Its variance is 27/9 = 3, which is the unbiased s^2/S = 9/3.
    draws = draws_of(np.array([[0.0, 0.0], [3.0, 3.0], [6.0, 6.0]]))
    shares = [np.mean(draws == value) for value in (0.0, 1.5, 3.0, 4.5, 6.0)]
    assert shares == pytest.approx([1 / 9, 2 / 9, 3 / 9, 2 / 9, 1 / 9], abs=0.04)
    assert draws.var() == pytest.approx(3.0, rel=0.1)


def test_blocks_keep_neighbours_together():
    indices = item_draws(stream("blocks"), 10, 50, 5)
    assert indices.shape == (50, 10)
    assert ((indices[:, 1:5] - indices[:, :4]) % 10 == 1).all()
    assert ((indices[:, 6:] - indices[:, 5:9]) % 10 == 1).all()


@pytest.mark.parametrize(("steps", "length"), [(1, 1), (8, 2), (27, 3), (1000, 10)])
def test_block_length_is_the_cube_root(steps, length):
    assert statistics.block_length(steps) == length


def test_equal_names_give_equal_streams_and_others_do_not():
    assert stream("a", 1).random() == stream("a", 1).random()
    assert stream("a", 1).random() != stream("a", 2).random()


def test_a_stream_is_the_same_on_any_machine():
    """Every interval of every table hangs on it."""
    assert stream("a", 1).integers(10**6, size=4).tolist() == [173897, 806552, 422330, 477038]


def test_further_statistics_by_hand():
    # two items at two trials: means 2 and 4 over the items
    assert statistics.trial_std(np.array([[1.0, 2.0], [3.0, 6.0]]), np.arange(2.0)) == pytest.approx(2**0.5)
    # the best of seeds 0 and 1, of 2 and 2, of 1 alone
    drawn_DS = np.array([[1.0, 5.0, 2.0], [6.0, 4.0, 3.0], [7.0, 8.0, 9.0]])
    assert statistics.best(drawn_DS, np.array([[0, 1], [2, 2], [1, 1]])).tolist() == [5, 3, 8]
    # two of three responses without the right one: one choice of three
    assert [statistics.pass_at(2, right, 3) for right in (0.0, 1.0, 2.0)] == pytest.approx([0, 2 / 3, 1])


@pytest.mark.parametrize(("rate", "one", "expected"), [(0.0, 1.0, (0.0, 0.2, 0.4)), (1.0, 1.0, (0.6, 0.8, 1.0)),
                                                       (0.5, 100.0, (0.3, 20.3, 40.3))])
def test_four_further_outcomes_in_two_coins_widen_a_rate_of_six(rate, one, expected):
    draws = statistics.widened(stream("wide"), np.full(4000, rate), 6, one)
    shares = [np.isclose(draws, value).mean() for value in expected]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.03)


def test_rows_on_the_same_items_are_paired():
    rng = np.random.default_rng(0)
    difficulty = rng.normal(0, 5, 200)
    left, right = difficulty[None] + 0.5, difficulty[None] + rng.normal(0, 0.5, (1, 200))
    paired = draws_of(left) - draws_of(right)
    apart = draws_of(left) - draws_of(right, name="other")
    # Paired, only the small noise is left: its standard error is 0.5 / sqrt(200) = 0.035; apart, that of difficulty.
    assert paired.std() == pytest.approx(0.035, rel=0.2)
    assert apart.std() > 10 * paired.std()


def coverage(make, truth, reduce="mean", block=1, repeats=300):
    rng = np.random.default_rng(1)
    hits = 0
    for repeat in range(repeats):
        low, high = interval(draws_of(make(rng), reduce, block, name=repeat)[:500])
        hits += low <= truth <= high
    return hits / repeats


def test_coverage_one_seed_of_independent_items():
    assert 0.91 <= coverage(lambda rng: rng.normal(2, 1, (1, 60)), 2.0) <= 0.98


def test_coverage_three_equal_seeds_errs_on_the_wide_side():
    assert coverage(lambda rng: rng.normal(2, 1, (3, 60)), 2.0) >= 0.95


def test_coverage_three_differing_seeds_is_the_range_of_the_three():
    # Stated limit: the mean of three lies outside their range with probability 2 * (1/2)^3 = 1/4.
    covered = coverage(lambda rng: 2 + rng.normal(0, 1, (3, 1)) + rng.normal(0, 0.01, (3, 60)), 2.0)
    assert 0.68 <= covered <= 0.82


def test_coverage_of_dependent_steps_needs_blocks():
    def walk(rng):
        noise, values = rng.normal(0, 1, 200), np.zeros(200)
        for step in range(1, 200):
            values[step] = 0.7 * values[step - 1] + noise[step]
        return values[None]

    assert coverage(walk, 0.0, block=statistics.block_length(200), repeats=200) > coverage(walk, 0.0, repeats=200) + 0.1


@pytest.mark.parametrize(("items", "block"), [(10, 5), (11, 3), (7, 7), (500, 8), (5, 1)])
def test_short_cuts_give_the_means_of_the_same_items(items, block):
    values = np.random.default_rng(0).normal(0, 1, items)
    indices = item_draws(stream("short"), items, 200, block)
    assert statistics.block_means(stream("short"), values, 200, block) == pytest.approx(values[indices].mean(1))
    assert statistics.counts(indices, items) @ values / items == pytest.approx(values[indices].mean(1))
