"""From numbers to what is shown of them: thresholds of verdicts, lines and bands of figures, sums of the run page."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from fixture import commit, write_index
from matplotlib.figure import Figure
from wide import SPEC, TASKS, experiments

from eval import figures, plots
from eval.artifact_pages import _costs, _scores
from eval.artifacts import Archive
from eval.checks import Evaluator, Side, Verdict
from eval.claims import second_underlined
from eval.derived import watched
from eval.figures import Curve
from eval.layout import sheet, verdict_text
from eval.samples import _answer
from eval.sparklines import sparkline
from eval.tables import BANNER, Book, ranks
from eval.text import to_latex, to_markdown
from rlfamily.records import CellEntry


def cell(root, rows, row="Ours", column="Chat", seed=0, kind="score", file="scores.jsonl"):
    key = commit(root, kind, f"{row} {column} {seed}", {}, {file: rows}, {})
    return CellEntry(model="Small", row=row, column=column, seed=seed, overrides=[], names={}, config={},
                     stages={kind: key}, status="done")


def frame_of(root, cells, scale="tiny", published="", **changes):
    write_index(root, "wide_tab", SPEC | {"published": published} | changes, cells, scale)
    return Book(Archive(root, experiments(root / "e"))).frame("wide_tab")


def greedy(*rewards, **fields):
    return [{"mode": "greedy", "item": item, "reward": reward} | {name: made[item] for name, made in fields.items()}
            for item, reward in enumerate(rewards)]


@pytest.mark.parametrize(("above", "word"), [(95, "supported"), (94, "inconclusive"), (6, "inconclusive"), (5, "contradicted")])
def test_a_claim_is_sure_at_95_percent_of_the_draws(above, word):
    draws = np.array([1.0] * above + [-1.0] * (100 - above))
    found = Evaluator("c", Side(lambda at: draws, lambda table: [], lambda table: True), {}, {}).verdict({"greater": ["a", 0]})
    assert (found.word, found.share) == (word, above / 100)


@pytest.mark.parametrize(("share", "warned"), [(0.95, True), (0.94, False), (0.7, False)])
def test_reward_hacking_is_called_so_at_95_percent_of_the_draws(tmp_path, share, warned):
    frame = frame_of(tmp_path, [cell(tmp_path, greedy(0.0, 1.0, gold=(0.0, 1.0)), row) for row in ("base", "Hacker")])
    drawn = {("Hacker", "Avg@1"): np.where(np.arange(100) < 100 * share, 2.0, 0.0), ("base", "Avg@1"): np.ones(100),
             ("Hacker", "gold"): np.zeros(100), ("base", "gold"): np.ones(100)}
    made = [replace(one, draws=drawn.get((one.row, one.metric.name), one.draws)) for one in frame.entries]
    found = watched(frame.experiment, made)
    assert {one.row for one in found if one.warnings} == ({"Hacker"} if warned else set())


@pytest.mark.parametrize(("better", "share", "marks"), [
    ("higher", 0.95, ("best", "second")), ("higher", 0.94, ("", "")),
    ("lower", 0.95, ("second", "best")), ("lower", 0.06, ("", "")), ("lower", 0.05, ("best", "second")),
])
def test_best_is_what_beats_every_other_in_95_percent_of_the_draws(tmp_path, better, share, marks):
    """GRPO is beyond doubt the worst of three, whichever way is better."""
    metrics = [{"name": "m", "stage": "score", "field": "reward", "better": better}]
    cells = [cell(tmp_path, greedy(0.0, 1.0), row) for row in ("Ours", "Hacker", "GRPO")]
    frame = frame_of(tmp_path, cells, metrics=metrics, derived=[])
    drawn = {"Ours": np.where(np.arange(100) < 100 * share, 2.0, 0.0), "Hacker": np.ones(100),
             "GRPO": np.full(100, -9.0 if better == "higher" else 9.0)}
    made = [replace(one, draws=drawn[one.row] if one.draws.size else one.draws) for one in frame.entries]
    found = ranks(made, frame.experiment)
    rank = {made[position].row: mark for position, mark in found.items()}
    assert (rank.get("Ours", ""), rank.get("Hacker", "")) == marks


@pytest.mark.parametrize(("share", "text"), [
    (0.12, "supported (12 % of draws)"), (0.005, "supported (0 % of draws)"), (0.004, "supported"),
    (0.994, "supported (99 % of draws)"), (0.995, "supported"), (None, "supported"),
])
def test_a_verdict_names_its_share_where_the_draws_differ(share, text):
    assert verdict_text(Verdict("supported", share=share)) == text


def test_a_geometric_mean_with_a_zero_is_one_and_has_the_seeds_of_all_its_parts(tmp_path):
    """Only values below zero make a product's root no geometric mean; a seed counts where every part has it."""
    seeds = {"Chat": (0, 1, 2), "Summary": (0, 2), "Drawing": (0, 2, 3)}
    cells = [cell(tmp_path, greedy(1.0, 3.0) if task != "Chat" else greedy(0.0, 0.0), column=task, seed=seed)
             for task in TASKS for seed in seeds[task]]
    entry = frame_of(tmp_path, cells).at("Ours", "GM over 3 tasks", "GM of Avg@1")[0]
    assert (entry.value, entry.note, entry.seeds) == (0.0, "", (0, 2))


def test_a_lone_published_value_is_compared_with_any_interval(tmp_path):
    """Nothing tells how far rows lie apart where the paper prints one: an interval that holds it supports it."""
    cells = [cell(tmp_path, greedy(0.0, 2.0, 1.0, 3.0), seed=seed) for seed in (0, 1)]
    root = experiments(tmp_path / "e")
    write_index(tmp_path, "wide_tab", SPEC, cells, "paper")
    path = root / "published" / "wide_tab.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "wide_tab,Small,Ours,Chat,Avg@1,1.5,,reward,,",
                               "wide_tab,Small,Ours,Summary,Avg@1,9.5,,reward,,", ""]))  # another task's
    entry = Book(Archive(tmp_path, root)).frame("wide_tab").at("Ours", "Chat", "Avg@1")[0]
    assert (entry.published.value, entry.verdict) == ("1.5", "supported")


def test_behind_two_that_share_the_first_place_stands_the_second():
    rows = [{"model": "M", "task_or_benchmark": "x", "metric": "m", "value": value, "mark": mark}
            for value, mark in (("3.0", ""), ("3.00", ""), ("2.5", "underline"))]
    assert second_underlined(rows)


def test_the_ends_of_a_printed_interval_are_those_of_the_draws(tmp_path):
    frame = frame_of(tmp_path, [cell(tmp_path, greedy(*range(24)))], derived=[])
    entry = frame.at("Ours", "Chat", "Avg@1, mean")[0]
    place = next(one for line in sheet(frame).lines for one in line.places if one.value)
    low, high = np.quantile(entry.draws, [0.025, 0.975])
    assert (float(place.low), float(place.high)) == pytest.approx((low, high), abs=1e-3)
    assert (place.reproduced, place.aside) == (f"{place.value} ± {place.half}", "n=24")
    assert float(place.half) == pytest.approx((high - low) / 2, abs=1e-3)


def test_a_table_in_pieces_shows_every_place_once_under_its_heading(tmp_path):
    cells = [cell(tmp_path, greedy(start, start + 2.0), row, task)
             for start, row in ((1.0, "Ours"), (5.0, "GRPO")) for task in TASKS]
    page = sheet(frame_of(tmp_path, cells))
    two = sum(len(group.metrics) for group in page.groups[:2])
    for most in (1, 3, 4, two, 99):
        pieces = [piece for piece in page.parts(most) if piece.blocks[0].label == page.blocks[0].label]
        assert [group for piece in pieces for group in piece.groups] == list(page.groups)
        assert all(len(piece.headings) <= most or len(piece.groups) == 1 for piece in pieces)
        assert all(len(piece.headings) + len(later.groups[0].metrics) > most for piece, later in pairwise(pieces))  # full
        assert all(len(line.places) == len(piece.headings) for piece in pieces for line in piece.lines)
        for row, line in enumerate(page.blocks[0].lines):
            assert tuple(place for piece in pieces for place in piece.lines[row].places) == line.places
    assert len(list(page.parts(99))) == len(page.blocks) == 2


def test_a_lone_model_and_a_lone_task_go_without_saying(tmp_path):
    metrics = [{"name": name, "stage": "score", "field": "reward"} for name in ("m", "k")]
    lone = {"models": {"Small": ["model=a"]}, "columns": {"Chat": []}, "metrics": metrics, "derived": []}
    frame = frame_of(tmp_path, [cell(tmp_path, greedy(0.0, 1.0))], **lone)
    page = sheet(frame)
    assert ([block.label for block in page.blocks], page.headings) == ([""], ("m", "k"))
    assert "\\midrule\n\\multicolumn" not in to_latex(frame) and "| Method | m | k |" in to_markdown(frame)
    assert f"> **{BANNER}**" in to_markdown(frame) and "In brackets" not in to_markdown(frame)
    assert r"\label{tab:a-b--_1.x:y-}" in to_latex(replace(frame, name="a b/ü_1.x:y{"))  # of what references can use
    assert head_of(frame) == [r" & \multicolumn{1}{c}{m} & \multicolumn{1}{c}{k} \\", r"\cmidrule(lr){2-2} \cmidrule(lr){3-3}",
                              r"Method & reproduced & reproduced \\"]


def head_of(frame):
    """The lines of a LaTeX table between its first two rules."""
    return to_latex(frame).partition("\\toprule\n")[2].partition("\n\\midrule")[0].splitlines()


def test_tasks_stand_over_their_metrics_and_a_printed_one_has_two_columns(tmp_path):
    metrics = [{"name": name, "stage": "score", "field": "reward"} for name in ("Avg@1", "k")]
    frame = frame_of(tmp_path, [cell(tmp_path, greedy(0.0, 1.0), column=task) for task in TASKS[:2]], metrics=metrics,
                     published="wide_tab.csv", columns={task: [] for task in TASKS[:2]}, derived=[])
    assert head_of(frame) == [
        r" & \multicolumn{3}{c}{Chat} & \multicolumn{2}{c}{Summary} \\", r"\cmidrule(lr){2-4} \cmidrule(lr){5-6}",
        r" & \multicolumn{2}{c}{Avg@1} & \multicolumn{1}{c}{k} & \multicolumn{1}{c}{Avg@1} & \multicolumn{1}{c}{k} \\",
        r"\cmidrule(lr){2-3} \cmidrule(lr){4-4} \cmidrule(lr){5-5} \cmidrule(lr){6-6}",
        r"Method & published & reproduced & reproduced & reproduced & reproduced \\"]


def test_notes_have_letters_as_far_as_there_are_and_equal_ones_the_same(tmp_path):
    rows = {f"row {n}": {"overrides": [], "note": f"note {min(n, 27)}"} for n in range(29)}
    frame = frame_of(tmp_path, [cell(tmp_path, greedy(1.0), row) for row in rows], rows=rows, derived=[],
                     metrics=[{"name": "m", "stage": "score", "field": "reward", "shown": False}])
    page = sheet(frame)
    marks = [f"[{letter}]" for letter in "abcdefghijklmnopqrstuvwxyz"] + ["[26]", "[27]"]
    assert [line.mark for line in page.blocks[0].lines] == [*marks, "[27]"]
    assert list(page.notes) == [(mark, f"note {n}") for n, mark in enumerate(marks)]


def test_a_training_figure_shows_what_is_shown_of_training(tmp_path):
    rows = [{"step": step, "reward": 1.0 * step, "loss": 2.0} for step in range(4)]
    metrics = [{"name": name, "stage": "train", "field": name, "shown": name == "reward"} for name in ("reward", "loss")]
    metrics.append({"name": "held out", "stage": "score", "field": "reward"})
    frame = frame_of(tmp_path, [cell(tmp_path, rows, kind="train", file="metrics.jsonl")], kind="curves",
                     metrics=metrics, derived=[])
    made = figures.curves(Archive(tmp_path), frame)
    assert [(one.panel, one.values.tolist()) for one in made] == [("Small, Chat, reward", [0, 1, 2, 3])]


def curve(seed, *values):
    found = np.array(values, dtype=float)
    return Curve("p", "M", "Ours", "x", seed, np.arange(1.0, len(values) + 1), found, found)


def test_a_line_is_the_mean_of_the_runs_and_its_band_their_standard_deviation():
    axis = Figure().add_subplot()
    plots.plot_curves(axis, [curve(0, 1, 2, 3), curve(1, 3, 6, 5, 9)], "Ours", "black", raw=False)
    (line,) = axis.get_lines()
    assert (line.get_xdata().tolist(), line.get_ydata().tolist()) == ([1, 2, 3], [2, 4, 4])
    assert line.get_label() == "Ours (2 seeds)"
    points = axis.collections[0].get_paths()[0].vertices
    band = {(x, round(y, 6)) for x, y in points}
    for x, mean, apart in ((1, 2, 2), (2, 4, 4), (3, 4, 2)):  # of two runs: their distance over the root of 2
        assert {(x, round(mean + sign * apart / math.sqrt(2), 6)) for sign in (1, -1)} <= band


def test_a_lone_run_has_no_band_and_the_runs_are_drawn_when_asked():
    axis = Figure().add_subplot()
    plots.plot_curves(axis, [curve(3, 1, 2)], "Ours", "black", raw=True)
    assert [line.get_ydata().tolist() for line in axis.get_lines()] == [[1, 2]] * 3
    assert (axis.get_lines()[-1].get_label(), len(axis.collections)) == ("Ours (seed 3)", 0)


def test_a_bar_goes_from_low_to_high_first_method_on_top():
    axis = Figure().add_subplot()
    rows = [{"method": name, "reproduced": value, "ci_low": low, "ci_high": high, "published": printed}
            for name, value, low, high, printed in (("A", "2", "1", "4", "3.5"), ("B", "7", "6", "8", ""))]
    plots.plot_intervals(axis, rows, ["A", "B"], ("reproduced", "published"))
    drawn = [(np.ravel(line.get_xdata()).tolist(), np.ravel(line.get_ydata()).tolist()) for line in axis.get_lines()]
    assert drawn == [([3.5], [2]), ([1, 4], [2, 2]), ([2], [2]), ([6, 8], [1, 1]), ([7], [1])]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["A", "B"]
    assert axis.get_yticks().tolist() == [2, 1]
    low, high = axis.get_ylim()
    assert low < 1 < 2 < high


def test_a_small_chart_rises_with_its_series():
    text = str(sparkline("reward", np.arange(5.0), np.array([1.0, 2.0, 3.0, 4.0, 5.0])))
    raw = re.search(r'class="raw" d="M([^"]*)"', text)[1]
    across, down = zip(*(map(float, point.split()) for point in raw.split("L")), strict=True)
    assert across == pytest.approx((46, 108.5, 171, 233.5, 296), abs=0.1)  # evenly, inside the frame
    assert down == pytest.approx((112, 86, 60, 34, 8), abs=0.1)  # from its base to its top
    # its greatest and least value beside the ends of the axis, its steps below them
    words = re.findall(r'<text x="(\d+)" y="(\d+)"[^>]*>([\d.]+|step \d)</text>', text)
    assert words == [("41", "16", "5"), ("41", "112", "1"), ("46", "126", "0"), ("296", "126", "step 4")]
    assert 'viewBox="0 0 300 130"' in text and 'd="M46 8V112H296"' in text


def test_a_long_series_is_shown_by_means_of_its_stretches():
    text = str(sparkline("reward", np.arange(600.0), np.tile([0.0, 1.0], 300)))
    raw = re.search(r'class="raw" d="M([^"]*)"', text)[1].split("L")
    assert len(raw) == 300
    assert {point.split()[1] for point in raw} == {"60.0"}  # half way up


def test_the_run_page_sums_costs_and_averages_scores(tmp_path):
    metrics, timings = [{"step": 0, "tokens": 96}, {"step": 1, "tokens": 30}], [
        {"step": step, "seconds_update": 0.5, "seconds_generate": 0.25 + step} for step in (0, 1)]
    key = commit(tmp_path, "train", "run", {}, {"metrics.jsonl": metrics, "timings.jsonl": timings}, {})
    assert _costs(Archive(tmp_path), key) == {"tokens": 126, "seconds_update": 1.0, "seconds_generate": 1.5}
    rows = [{"mode": mode, "item": 0, "draw": 0, "reward": reward, "length": 4, "truncated": False}
            for mode, reward in (("sample", 1.0), ("greedy", 5.0), ("sample", 2.0))]
    key = commit(tmp_path, "score", "score", {}, {"scores.jsonl": rows}, {})
    assert _scores(Archive(tmp_path), key) == [{"mode": "greedy", "n": 1, "reward": 5.0, "length": 4.0},
                                               {"mode": "sample", "n": 2, "reward": 1.5, "length": 4.0}]


def test_parts_of_a_sample_are_what_its_reward_is_made_of():
    row = {"mode": "greedy", "item": 3, "draw": 0, "benchmark": 7, "prompt": "p", "response": "r", "reward": 1.5,
           "length": 9, "truncated": True, "gold": 0.5, "valid": 1, "label": "text"}
    shown = _answer("Ours", row, ())
    assert (shown.reward, shown.parts) == (1.5, {"gold": 0.5, "valid": 1})
