"""The length-controlled win rate against the package alpaca_eval, on made-up judges, and its bootstrap."""

from __future__ import annotations

import importlib.util
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixture import write_index
from rich.console import Console
from test_eval_judged import cell as judged_cell
from wide import SPEC

from eval import length_controlled, statistics
from eval.artifacts import Archive
from eval.entries import Site, measured
from eval.length_controlled import MINIMAL, NOREG, V1, draws, fit, win_rate
from eval.length_controlled import NAMES as SAID
from eval.series import Unusable, read_series
from eval.tables import Book
from eval.terminal import render
from rlfamily.experiment import Metric

UPSTREAM = importlib.util.find_spec("alpaca_eval") is not None
NAMES = {MINIMAL: "length_controlled_minimal", NOREG: "length_controlled_noreg", V1: "length_controlled_v1"}


def judged(seed: int, items: int = 400, length: float = 1.0, ties: float = 0.0, soft: bool = True, lost: int = 0) -> Any:
    """A judge who likes length `length` much, as all seven numbers of every item."""
    rng = np.random.default_rng(seed)
    difficulty_I, ours_I = rng.normal(0, 0.8, items), rng.lognormal(6, 0.5, items).round()
    theirs_I = (ours_I * rng.lognormal(-0.2, 0.4, items)).round()
    more_I = theirs_I - ours_I
    logit_I = -length * more_I / more_I.std() + 0.5 * difficulty_I - 0.3 + rng.normal(0, 1, items)
    preference_I = 1 / (1 + np.exp(-logit_I))
    preference_I = preference_I if soft else (rng.random(items) < preference_I).astype(float)
    preference_I[rng.random(items) < ties] = 0.5
    preference_I[:lost] = np.nan
    gamed = [column for sign in (1, -1) for column in
             (sign + rng.normal(0, 0.3, items), 1 / (1 + np.exp(sign - difficulty_I)))]
    return np.stack([preference_I, more_I, difficulty_I, *gamed], axis=1)


CASES = {"likes length": {}, "likes it not": {"length": -0.5}, "is blind to it": {"length": 0.0},
         "ties": {"ties": 0.4}, "verdicts": {"soft": False, "length": 0.4}, "verdicts and ties": {"soft": False, "ties": 0.2},
         "few": {"items": 60, "soft": False}, "some could not be read": {"lost": 7}, "all": {"items": 805}}


@pytest.mark.parametrize("size", NAMES)
@pytest.mark.parametrize("case", CASES)
def test_it_is_upstreams_to_four_decimals(case: str, size: int, tmp_path, monkeypatch) -> None:
    if not UPSTREAM and not os.environ.get("CI"):
        pytest.skip("alpaca_eval is not installed: nothing to compare with")
    values = judged(len(case), **CASES[case])
    expected = upstream(values, NAMES[size], tmp_path, monkeypatch)
    assert 100 * win_rate(values[:, :size]) == pytest.approx(expected, abs=5e-5)


def upstream(values: Any, name: str, folder: Any, monkeypatch: Any) -> float:
    """What the package says of the same judgements, with a file of gamed baselines of our own."""
    import pandas as pd
    import sklearn
    from alpaca_eval.metrics import glm_winrate

    items = len(values)
    gamed = pd.concat([pd.DataFrame({
        "index": range(items), "model": f"gamed {place}", "preference": values[:, at + 1],
        "std_delta_len": values[:, at], "instruction_difficulty": values[:, 2], "not_gamed_baseline": False})
        for place, at in enumerate((3, 5))], ignore_index=True)
    gamed.to_csv(folder / "df_gamed.csv", index=False)
    monkeypatch.setattr(glm_winrate, "hf_hub_download", lambda **_: str(folder / "df_gamed.csv"))
    least = max(0, -int(values[:, 1].min()))
    frame = pd.DataFrame({
        "preference": values[:, 0] + 1, "output_1": ["x" * (least + int(more)) for more in values[:, 1]],
        "output_2": "x" * least, "generator_1": "theirs", "generator_2": "ours", "index": range(items)})
    with sklearn.config_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        found = glm_winrate.get_length_controlled_winrate(frame, glm_name=name, save_weights_dir=None)
    return float(found["length_controlled_winrate"])


# ------------------------------------------------------------------------- bootstrap


def resampled(items: int, times: int = 2000) -> tuple[Any, Any]:
    """Indices of the items of each draw, and how often each is in it."""
    indices = statistics.item_draws(np.random.default_rng(1), items, times, 1)
    return indices, statistics.counts(indices, items)


@pytest.mark.parametrize("size", NAMES)
def test_a_draw_is_the_estimate_of_its_items(size: int) -> None:
    """At the same penalty, as another solver finds it; a search for a penalty in every draw changes little."""
    from sklearn.linear_model import LogisticRegression

    values = judged(1, 300)[:, :size]
    indices, counts = resampled(300)
    found, (_, penalty) = draws(values, counts), fit(values)
    for one, draw in zip(indices[:8], found[:8], strict=True):
        features, preference, weight = length_controlled._regression(values[one])
        if size == V1:  # the gamed baselines are not resampled
            features[:600] = length_controlled._gamed(values)[0]
            preference[:600] = length_controlled._gamed(values)[1]
        model = LogisticRegression(C=penalty, l1_ratio=1.0, solver="liblinear", fit_intercept=False, tol=1e-9, max_iter=5000)
        model.fit(np.concatenate([features] * 2), np.repeat([1, 0], len(features)),
                  sample_weight=np.concatenate([preference * weight, (1 - preference) * weight]))
        at_equal = length_controlled._equal_lengths(values[one]) @ model.coef_[0]
        assert draw == pytest.approx((1 / (1 + np.exp(-at_equal))).mean(), abs=1e-4)
    again = np.array([win_rate(values[one]) for one in indices[:8]])
    assert np.abs(again - found[:8]).max() < 1e-2
    low, high = statistics.interval(found)
    assert low < win_rate(values) < high and 0.01 < high - low < 0.2


def test_the_interval_covers_what_a_judge_without_lengths_would_say() -> None:
    """A judge who adds a multiple of tanh of the difference: the rate at equal lengths is known."""
    inside, truth = 0, 1 / (1 + np.exp(0.3))
    for seed in range(40):
        rng = np.random.default_rng(seed)
        more = rng.normal(50, 100, 300)
        chance = 1 / (1 + np.exp(0.3 + 1.5 * np.tanh(more / more.std())))
        values = np.stack([(rng.random(300) < chance).astype(float), more], axis=1)
        low, high = statistics.interval(draws(values, resampled(300, 300)[1]))
        inside += low <= truth <= high
    assert inside >= 35


def test_length_is_controlled_for() -> None:
    values = judged(2, length=3.0)
    values[:, 1] -= 3 * values[:, 1].std()  # ours is longer throughout
    assert np.nanmean(values[:, 0]) - win_rate(values[:, :2]) != pytest.approx(0, abs=0.02)
    turned = values.copy()
    turned[:, 0], turned[:, 1] = 1 - values[:, 0], -values[:, 1]
    assert win_rate(turned[:, :2]) == pytest.approx(1 - win_rate(values[:, :2]), abs=1e-3), "either side may be ours"


def test_a_policy_against_itself_ties() -> None:
    values = np.stack([np.full(30, 0.5), np.zeros(30)], axis=1)
    assert win_rate(values) == 0.5 and (draws(values, resampled(30)[1]) == 0.5).all()


@pytest.mark.parametrize("won", [0.0, 1.0])
def test_one_side_always_wins(won: float) -> None:
    values = np.stack([np.full(40, won), np.random.default_rng(0).normal(0, 50, 40)], axis=1)
    found = draws(values, resampled(40)[1])
    assert win_rate(values) == won and (found == won).all()
    values[0, 0] = 1 - won
    found = draws(values, resampled(40)[1])
    assert abs(win_rate(values) - won) < 0.15 and (np.abs(found - won) < 0.3).all()


def test_no_difference_in_length_is_an_ordinary_rate() -> None:
    values = np.stack([np.repeat([1.0, 0.0, 0.5], [30, 10, 20]), np.zeros(60)], axis=1)
    assert win_rate(values) == pytest.approx(40 / 60, abs=0.02)
    assert np.isfinite(draws(values, resampled(60)[1])).all()


# ------------------------------------------------------------------------- in a table

LC = Metric(name="LC", stage="judge", field="controlled", where={"order": "one"}, reduce="lc_win_rate", times=100,
            better="higher")


def cell(root: Path, values: Any) -> Any:
    lists = [[None if np.isnan(one) else float(one) for one in row] for row in values]
    return judged_cell(root, [{"item": item, "order": "one", "judge": "J", "controlled": one}
                              for item, one in enumerate(lists)])


@pytest.mark.parametrize("size", NAMES)
def test_a_table_shows_the_rate_and_says_which_it_is(tmp_path, size: int) -> None:
    values = judged(3, lost=2)[:, :size]
    entry = measured(Archive(tmp_path), [cell(tmp_path, values)], LC, Site("Small", "Ours", "Chat", None, "tiny", 1.0))
    assert entry.value == pytest.approx(100 * win_rate(values)) and entry.low < entry.value < entry.high
    assert entry.n == len(values), "what could not be read stays"
    assert entry.estimator == SAID[size] and "AlpacaEval" not in entry.estimator
    assert ("minimal" in entry.estimator) == (size == MINIMAL)


def test_a_rate_of_nothing_is_no_surer_than_a_plain_one(tmp_path) -> None:
    values = judged(5)[:60, :2]
    values[:, 0] = 0.0
    site = Site("Small", "Ours", "Chat", None, "tiny", 1.0)
    entry = measured(Archive(tmp_path), [cell(tmp_path, values)], LC, site)
    assert entry.value == entry.low == 0 and 2 < entry.high < 10


def test_a_heading_says_that_difficulties_are_not_known(tmp_path) -> None:
    spec = SPEC | {"metrics": [LC.model_dump()], "derived": [], "published": "", "rows": {
        "Ours": {"overrides": [], "against": {"overrides": ["algorithm=none"]}}}}
    write_index(tmp_path, "wide_one", spec, [cell(tmp_path, judged(4)[:, :2])], "tiny")
    console = Console(width=200, record=True, file=(tmp_path / "out").open("w"))
    console.print(render(Book(Archive(tmp_path)).frame("wide_one")))
    assert "length-controlled, minimal estimator" in " ".join(console.export_text().split())


@pytest.mark.parametrize("bad", [[0.5], [None, None], [0.5, "x"], 0.5, [0.5, 1.0, 2.0, 3.0]])
def test_what_is_no_judgement_is_refused(tmp_path, bad: Any) -> None:
    there = judged_cell(tmp_path, [{"item": item, "order": "one", "judge": "J", "controlled": [0.5, 1.0] if item else bad}
                                   for item in range(20)])
    with pytest.raises(Unusable, match="1 of 20 values that are not a preference with lengths"):
        read_series(Archive(tmp_path), there, LC)


def test_difficulties_of_some_items_alone_are_refused(tmp_path) -> None:
    there = judged_cell(tmp_path, [{"item": item, "order": "one", "judge": "J", "controlled": [0.5, 1.0] if item else [0.5, 1, 2]}
                                   for item in range(20)])
    with pytest.raises(Unusable, match="knows more of some items than of others"):
        read_series(Archive(tmp_path), there, LC)
