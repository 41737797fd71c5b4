"""What a judge said, as numbers: one order by chance, its spread over draws, and two judges of the same pairs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixture import commit, write_index
from wide import SPEC, experiments

from eval import statistics
from eval.agreement import kappa
from eval.artifacts import Archive
from eval.series import Unusable, draw, read_series
from eval.tables import Book
from eval.terminal import render
from rlfamily.experiment import Metric
from rlfamily.judges.pairwise import Judgement
from rlfamily.records import CellEntry

ONE, BOTH = {"order": "one"}, {"order": "both"}
SIDES = {"ours": "o" * 32, "theirs": "t" * 32}
ALL = Metric(name="all", stage="judge", field="win", where=ONE, times=100, better="higher")
DECIDED = ALL.model_copy(update={"name": "decided", "where": ONE | {"tie": 0}})


def said(seed: int, items: int = 40, name: str = "Mistral") -> list[dict[str, Any]]:
    """What a judge's stage writes of answers by chance, ours a little better."""
    from rlfamily.stages.kinds.judge import rows

    class Settings:
        orders = 3

    Settings.name = name  # type: ignore[attr-defined]
    rng = np.random.default_rng(seed)
    words = rng.choice(["ours", "theirs", "tie"], (items, 2), p=[0.5, 0.25, 0.25]).tolist()
    return list(rows([Judgement(item, *pair) for item, pair in enumerate(words)], Settings))  # type: ignore[arg-type]


def cell(root: Path, rows: list[dict[str, Any]], seed: int = 0, **place: Any) -> CellEntry:
    key = commit(root, "judge", f"{place} {seed} {rows[0]['judge']}", SIDES, {"judgements.jsonl": rows}, {})
    return CellEntry(**{"model": "Small", "row": "Ours", "column": "Chat", "seed": seed, "overrides": [], "names": {},
                        "config": {}, "stages": {"judge": key}, "status": "done"} | place)


def per_draw(rows: list[dict[str, Any]], decided: bool) -> list[float]:
    """The rate of each draw, by hand."""
    chosen = [[row for row in rows if row.get("draw") == one and not (decided and row["tie"])] for one in range(3)]
    return [100 * sum(row["win"] for row in part) / len(part) for part in chosen]


def test_win_rates_of_all_and_of_what_decided(tmp_path) -> None:
    rows = said(0)
    there = Archive(tmp_path), cell(tmp_path, rows)
    drawn = [row for row in rows if row["order"] == "one"]
    wins, ties = (sum(row[word] for row in drawn) for word in ("win", "tie"))
    for metric, expected in ((ALL, wins / 120), (DECIDED, wins / (120 - ties))):
        one = read_series(*there, metric)
        value, draws = draw([one], metric, ("x",))
        assert value == pytest.approx(100 * expected)
        assert len(one.items) == 40, "pairs that decided nothing stay, so that rows are compared on the same ones"
        low, high = statistics.interval(draws)
        assert low < value < high and high - low < 40
    assert 0 < one.counted < 40 and one.rows == 120 - ties


def test_the_interval_of_a_decided_rate_covers(tmp_path) -> None:
    """One order an item: an ordinary ratio; pairs are what is resampled."""
    inside = 0
    for seed in range(60):
        rows = [row for row in said(seed, 60) if row.get("draw") == 0]
        one = read_series(Archive(tmp_path / str(seed)), cell(tmp_path / str(seed), rows), DECIDED)
        low, high = statistics.interval(draw([one], DECIDED, (seed,))[1])
        inside += low <= 100 * 2 / 3 <= high
    assert inside >= 53


@pytest.mark.parametrize("decided", [False, True])
def test_the_spread_over_draws_is_that_of_each_draws_rate(tmp_path, decided: bool) -> None:
    rows = said(1)
    metric = (DECIDED if decided else ALL).model_copy(update={"reduce": "trial_std", "better": ""})
    one = read_series(Archive(tmp_path), cell(tmp_path, rows), metric)
    value, draws = draw([one], metric, ("x",))
    assert value == pytest.approx(np.std(per_draw(rows, decided), ddof=1))
    assert one.values.shape == (40, 3) and bool(np.isnan(one.values).any()) == decided
    assert np.isfinite(draws).all() and draws.std() > 0
    # A draw resamples pairs, each with all its draws.
    rng = np.random.default_rng(0)
    means = [np.nanmean(one.values[rng.integers(40, size=40)], axis=0).std(ddof=1) for _ in range(3000)]
    assert np.mean(draws) == pytest.approx(np.mean(means), rel=0.1)


def test_kinds_of_verdict_are_not_mixed_and_one_draw_has_no_spread(tmp_path) -> None:
    rows = said(2)
    there = Archive(tmp_path), cell(tmp_path, rows)
    with pytest.raises(Unusable, match=r"mixes verdicts of both orders and of one: say where: \{order: both\}"):
        read_series(*there, ALL.model_copy(update={"where": {}}))
    spread = ALL.model_copy(update={"reduce": "trial_std", "better": ""})
    for where in (BOTH, ONE | {"draw": 1}):
        with pytest.raises(Unusable, match="trials need the same number, 2 or more"):
            read_series(*there, spread.model_copy(update={"where": where}))
    both = read_series(*there, ALL.model_copy(update={"where": BOTH}))
    assert both.rows == 40 and both.weights is None


def test_consistency_is_over_the_pairs_that_a_judge_was_asked_about(tmp_path) -> None:
    rows = said(3)
    for row in rows[:10]:
        row.pop("consistent")
    metric = ALL.model_copy(update={"field": "consistent", "where": BOTH})
    value, _ = draw([read_series(Archive(tmp_path), cell(tmp_path, rows), metric)], metric, ("x",))
    assert value == pytest.approx(100 * np.mean([row["consistent"] for row in rows[10:40]]))


def test_cells_that_decided_other_pairs_are_averaged_each_over_its_own(tmp_path) -> None:
    series = [read_series(Archive(tmp_path / str(seed)), cell(tmp_path / str(seed), said(seed), seed), DECIDED) for seed in (4, 5)]
    value, _ = draw(series, DECIDED, ("x",))
    rates = [sum(row["win"] for row in rows) / sum(1 - row["tie"] for row in rows)
             for rows in ([row for row in said(seed) if row["order"] == "one"] for seed in (4, 5))]
    assert value == pytest.approx(100 * np.mean(rates))


# ------------------------------------------------------------------------- two judges


def test_kappa() -> None:
    table = [("win", "win")] * 20 + [("win", "loss")] * 5 + [("loss", "win")] * 10 + [("loss", "loss")] * 15
    assert kappa(table) == pytest.approx(0.4)  # Cohen's own example: 0.7 agree, 0.5 by chance
    assert kappa([("win", "win"), ("loss", "loss")]) == 1
    assert kappa([("win", "loss"), ("loss", "win")]) == -1
    assert kappa([("tie", "tie")] * 3) is None


def judged(root: Path, name: str, rows: list[dict[str, Any]], **place: Any) -> None:
    win = {"name": "win", "stage": "judge", "field": "win", "where": BOTH, "better": "higher"}
    write_index(root, name, SPEC | {"metrics": [win], "derived": [], "published": "", "rows": {
        "Ours": {"overrides": [], "against": {"overrides": ["algorithm=none"]}}}}, [cell(root, rows, **place)], "tiny")


def test_a_judged_table_says_how_far_two_judges_agree(tmp_path) -> None:
    first, second = said(6, name="Mistral"), said(7, name="LLaMA")
    judged(tmp_path, "wide_one", first)
    folder = experiments(tmp_path / "e")
    assert Book(Archive(tmp_path, folder)).frame("wide_one").footnote == ""
    judged(tmp_path, "wide_other", second, column="Summary")
    words = [[next(word for word in ("win", "tie", "loss") if row[word]) for row in rows if row["order"] == "both"]
             for rows in (first, second)]
    pairs = list(zip(*words, strict=True))
    share, value = np.mean([one == other for one, other in pairs]), kappa(pairs)
    assert value is not None and not math.isnan(value)
    for table in ("wide_one", "wide_other"):
        frame = Book(Archive(tmp_path, folder)).frame(table)
        assert frame.footnote == (f"LLaMA and Mistral agree on {100 * share:.1f} % of 40 pairs that both judged "
                                  f"(Cohen's kappa {value:.2f}).")
    from rich.console import Console

    console = Console(width=100, record=True, file=(tmp_path / "out").open("w"))
    console.print(render(frame))
    assert "LLaMA and Mistral agree on" in " ".join(console.export_text().split())


def test_other_pairs_and_the_same_judge_again_say_nothing(tmp_path) -> None:
    judged(tmp_path, "wide_one", said(6))
    judged(tmp_path, "wide_again", said(8), row="Ours", model="Large")
    SIDES["theirs"], kept = "u" * 32, SIDES["theirs"]
    try:
        judged(tmp_path, "wide_third", said(7, name="LLaMA"), model="Large")
    finally:
        SIDES["theirs"] = kept
    assert Book(Archive(tmp_path, experiments(tmp_path / "e"))).frame("wide_one").footnote == ""
