"""Few items, rates near 0 and 1, Pass@k, one run named twice, misprints: what a number may say."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from coverage import World, coverage, verdicts
from fixture import commit, write_index
from wide import SPEC, experiments

from eval import statistics
from eval.artifacts import Archive, Published
from eval.figures import _binned, running_mean
from eval.series import Series, Unusable, draw, read_series
from eval.tables import Book
from eval.verdicts import verdict
from rlfamily.errors import UserError
from rlfamily.experiment import load
from rlfamily.plan import check_draws
from rlfamily.quantities import Metric
from rlfamily.records import CellEntry

VALID = Metric(name="valid", stage="score", field="valid", better="higher")


def hits(right, items=30, seeds=1, name="a"):
    return World(name, np.array([[1.0] * right + [0.0] * (items - right)] * seeds)).measured()


def cell(root, rows, kind="score", seed=0, file="scores.jsonl", row="Ours"):
    stages = {kind: commit(root, kind, f"{row} {seed} {len(rows)}", {}, {file: rows}, {})}
    return CellEntry(model="Small", row=row, column="Chat", seed=seed, overrides=[], names={}, config={}, stages=stages,
                     status="done")


@pytest.mark.parametrize(("right", "low", "high"), [(0, 0, 0.114), (30, 0.886, 1), (15, 0.331, 0.669), (3, 0.035, 0.256)])
def test_the_interval_of_a_rate_is_near_wilsons(right, low, high):
    value, draws = hits(right)
    assert value == right / 30
    assert statistics.interval(draws) == pytest.approx((low, high), abs=0.045)


def test_no_hit_does_not_contradict_a_printed_hit():
    value, draws = World("x", np.zeros((2, 30))).measured()
    low, high = (100 * one for one in statistics.interval(draws))
    assert verdict(Published("3.3", "", ""), 100 * value, low, high, 2, "paper", math.inf) == "supported"


@pytest.mark.parametrize(("ours", "theirs", "items", "sure"), [
    (0, 0, 30, False), (3, 0, 30, False), (4, 0, 30, False), (7, 0, 30, True), (1, 0, 1, False), (30, 27, 30, False),
    (20, 5, 30, True),
])
def test_few_discordant_items_decide_nothing(ours, theirs, items, sure):
    difference = hits(ours, items, name="ours")[1] - hits(theirs, items, name="theirs")[1]
    assert (np.mean(difference > 0) >= 0.95) == sure
    assert np.mean(difference < 0) < 0.95


def test_one_run_under_two_names_ties_in_every_draw():
    assert np.array_equal(hits(5)[1], hits(5)[1])


@pytest.mark.parametrize(("a", "b"), [(0.05, 0.05), (0.06, 0.03), (0.97, 0.96)])
def test_what_is_true_is_seldom_contradicted(a, b):
    found = verdicts(a, b, 30, 1, worlds=150)
    assert found["contradicted"] <= 0.05
    assert found["supported"] <= 0.07 or a > b


@pytest.mark.parametrize("rate", [1 / 30, 0.1, 0.97])
def test_intervals_of_rare_rates_cover(rate):
    assert coverage(rate, 30, 1, worlds=200) >= 0.9


@pytest.mark.parametrize(("k", "right", "draws"), [(3, 1, 8), (3, 0, 8), (3, 2, 8), (3, 6, 8), (1, 3, 4), (3, 3, 3)])
def test_pass_at_k_counts_the_choices_that_hold_a_right_one(k, right, draws):
    chosen = list(combinations([1] * right + [0] * (draws - right), k))
    assert statistics.pass_at(k, right, draws) == pytest.approx(np.mean([max(one) for one in chosen]))


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_best_of_k_is_the_mean_over_all_choices(k):
    values, ranks = [3.0, -1.0, 0.5, 7.0, 2.0], [1, 4, 2, 5, 3]
    chosen = [max(choice, key=lambda place: ranks[place]) for choice in combinations(range(5), k)]
    ranked = [value for _, value in sorted(zip(ranks, values, strict=True))]
    assert statistics.best_of(k, ranked) == pytest.approx(np.mean([values[place] for place in chosen]))


def test_best_at_k_reads_one_field_and_ranks_by_another(tmp_path):
    metric = VALID.model_copy(update={"name": "Best@2", "field": "gold", "per_item": "best", "ranked_by": "reward",
                                      "where": {"mode": "sample"}, "times": 1.0, "reduce": "mean"})
    rows = [{"mode": "sample", "item": 0, "draw": draw, "gold": gold, "reward": reward}
            for draw, (gold, reward) in enumerate([(1.0, 5.0), (2.0, 3.0), (9.0, 5.0)])]
    one = read_series(Archive(tmp_path), cell(tmp_path, rows), metric)
    assert one.values.tolist() == [pytest.approx((1 + 1 + 9) / 3)]  # of equal rewards the first drawn
    with pytest.raises(Unusable, match="without a number in rewards, by which Best@2 ranks"):
        read_series(Archive(tmp_path), cell(tmp_path, rows), metric.model_copy(update={"ranked_by": "rewards"}))
    with pytest.raises(ValueError, match="per_item: best needs ranked_by"):
        type(metric).model_validate({"name": "Best", "stage": "score", "field": "gold", "per_item": "best",
                                     "ranked_by": "reward"})


def test_pass_at_3_of_eight_draws(tmp_path):
    metric = next(one for one in load("gnivo_tab1").metrics if one.name == "Pass@3")
    rows = [{"mode": "sample", "item": item, "draw": draw, "valid": int(draw < right)}
            for item, right in enumerate((1, 0, 2)) for draw in range(8)]
    one = read_series(Archive(tmp_path), cell(tmp_path, rows), metric)
    assert one.values.mean() == pytest.approx(33.929, abs=1e-3)
    with pytest.raises(Unusable, match="has 1 draws of an item: Pass@3 needs 3"):
        read_series(Archive(tmp_path), cell(tmp_path, rows[::8]), metric)


@pytest.mark.parametrize(("name", "draws", "fits"), [("Pass@3", 3, True), ("Pass@3", 2, False), ("Avg@16", 8, False),
                                                     ("Avg@3 std", 3, True), ("valid", 1, True)])
def test_a_name_says_how_many_draws_it_needs(name, draws, fits):
    experiment = load("gnivo_tab1")
    metric = VALID.model_copy(update={"name": name, "where": {"mode": "sample"}})
    asked = experiment.model_copy(update={"metrics": [metric]})
    if fits:
        check_draws(asked, draws)
        return
    with pytest.raises(UserError, match=f"metric '{name}' needs .* set task.eval_draws="):
        check_draws(asked, draws)


def test_one_run_named_three_times_is_one_run(tmp_path):
    rows = [{"mode": "greedy", "item": item, "reward": float(item % 3)} for item in range(24)]
    once = cell(tmp_path, rows)
    spec = SPEC | {"published": "", "derived": [], "metrics": [SPEC["metrics"][1]]}
    found = []
    for cells in ([once], [once] * 3):
        write_index(tmp_path, "wide_tab", spec, cells, "tiny")
        entry = Book(Archive(tmp_path, experiments(tmp_path / "e"))).frame("wide_tab").at("Ours", "Chat", "Avg@1, mean")[0]
        found.append((entry.n, entry.low, entry.high, entry.seeds))
    assert found[0] == found[1]


@pytest.mark.parametrize(("change", "near"), [({"field": "vaild"}, "valid"), ({"where": {"mode": "sampled"}}, "sample"),
                                              ({"where": {"benchmark": "AMC 2023"}}, "AMC2023")])
def test_a_misprint_is_a_failed_hole_that_names_the_nearest(tmp_path, change, near):
    rows = [{"mode": "sample", "item": 0, "valid": 1, "benchmark": "AMC2023"}]
    with pytest.raises(Unusable, match=f"did you mean '{near}'") as error:
        read_series(Archive(tmp_path), cell(tmp_path, rows), VALID.model_copy(update=change))
    assert error.value.hole == "failed"


def test_steps_weigh_as_many_rows_as_they_had(tmp_path):
    metric = Metric(name="rate", stage="train", field="mean_valid")
    rows = [{"step": step, "rows": count, "mean_valid": rate} for step, (count, rate) in enumerate(((8, 1.0), (2, 0.0)))]
    one = read_series(Archive(tmp_path), cell(tmp_path, rows, "train", file="metrics.jsonl"), metric)
    assert draw([one], metric, ())[0] == pytest.approx(0.8)


def test_steps_without_rows_weigh_nothing_and_leave_every_draw_a_number(tmp_path):
    metric = Metric(name="rate", stage="train", field="mean_valid")
    rows = [{"step": step, "rows": count, "mean_valid": rate} for step, (count, rate) in enumerate(((0, 1.0), (4, 0.25)))]
    value, draws = draw([read_series(Archive(tmp_path), cell(tmp_path, rows, "train", file="metrics.jsonl"), metric)], metric, ())
    assert value == 0.25 and set(draws.tolist()) == {0.25}


def test_the_best_of_as_many_draws_as_named_and_of_no_more(tmp_path):
    metric = Metric(name="Best@2", stage="score", field="reward", per_item="any", better="higher")
    assert metric.draws == 2
    rows = [{"mode": "sample", "item": item, "draw": draw, "reward": item + draw / 2} for item in range(3) for draw in range(2)]
    assert read_series(Archive(tmp_path), cell(tmp_path, rows), metric).values.tolist() == [0.5, 1.5, 2.5]
    with pytest.raises(Unusable, match="3 draws an item and values besides 0 and 1: draw 2"):
        read_series(Archive(tmp_path), cell(tmp_path, [*rows, {**rows[0], "draw": 2}]), metric)


@pytest.mark.parametrize(("window", "values"), [(0.1, [36, 37, 38, 39]), (0.001, [39])])
def test_a_window_is_the_last_part_of_a_run_and_one_step_at_least(tmp_path, window, values):
    metric = Metric(name="rate", stage="train", field="loss", window=window)
    rows = [{"step": step, "loss": float(step)} for step in range(40)]
    one = read_series(Archive(tmp_path), cell(tmp_path, rows, "train", file="metrics.jsonl"), metric)
    assert one.values.tolist() == values


@pytest.mark.parametrize(("low", "high", "word"), [(0.06, 0.0738, "contradicted"), (0.06, 0.07397, "supported"),
                                                   (0.07403, 0.09, "supported"), (0.0742, 0.09, "contradicted")])
def test_a_published_value_just_outside_the_interval(low, high, word):
    assert verdict(Published("0.0740", "", ""), 0.07, low, high, 2, "paper", math.inf) == word


@pytest.mark.parametrize(("text", "word"), [("1,234", "supported"), ("12.34e2", "supported"), ("about 3", "not checkable"),
                                            ("1.0e-5", "contradicted")])
def test_published_numbers_of_any_form(text, word):
    assert verdict(Published(text, "", ""), 1234.0, 1233.0, 1235.0, 2, "paper", math.inf) == word


def test_a_constant_stays_constant_and_every_value_is_binned():
    assert running_mean(np.full(30, 2.5), 7) == pytest.approx(np.full(30, 2.5))
    values = np.append(np.arange(500.0), 1e6)
    assert _binned("p", "r", {"s": values})[0].counts.sum() == 501


def test_half_of_the_interval_is_printed(tmp_path):
    from eval.layout import sheet

    rows = [{"mode": "greedy", "item": item, "reward": float(item)} for item in range(24)]
    spec = SPEC | {"published": "", "derived": [], "metrics": [SPEC["metrics"][1]]}
    write_index(tmp_path, "wide_tab", spec, [cell(tmp_path, rows)], "tiny")
    frame = Book(Archive(tmp_path, experiments(tmp_path / "e"))).frame("wide_tab")
    entry = frame.at("Ours", "Chat", "Avg@1, mean")[0]
    (place,) = [one for line in sheet(frame).lines for one in line.places if one.value]
    assert float(place.half) == pytest.approx((entry.high - entry.low) / 2, abs=1e-4)


def test_the_draws_are_two_thousand():
    series = [Series(0, "k", (0, 1), np.array([0.0, 1.0]), np.array([0.0, 1.0]), 2)]
    assert draw(series, VALID, ())[1].shape == (2000,)
