"""Whole figures: which panels there are, what stands in each, what legends and titles say, when a picture is drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_eval_shown import cell, curve, frame_of, greedy

from eval import plots
from eval.artifacts import Archive
from eval.figures import Histogram


@pytest.fixture
def frame(tmp_path):
    return frame_of(tmp_path, [cell(tmp_path, greedy(0.0, 1.0, 2.0))])


def shown(figure):
    """Its panels, in reading order."""
    return [axis for axis in figure.axes if axis.get_visible()]


@pytest.mark.parametrize(("methods", "few"), [(3, True), (4, False)])
def test_few_methods_have_a_legend_a_panel_and_many_one_for_all(frame, methods, few):
    made = [replace(curve(0, 1, 2), panel=panel, row=f"method {n}") for panel in "pqr" for n in range(methods)]
    figure = plots.draw_curves(frame, made)
    axes = shown(figure)
    assert [axis.get_title() for axis in axes] == ["p", "q", "r"] and len(figure.axes) == 4
    assert {axis.get_xlabel() for axis in axes} == {"training step"}
    assert [len(axis.get_lines()) for axis in axes] == [methods * (3 if few else 1)] * 3  # the runs beside their mean
    legends = [axis.get_legend() for axis in axes] if few else figure.legends
    assert len(figure.legends) == (0 if few else 1) and all(legends)
    assert {tuple(text.get_text() for text in one.get_texts()) for one in legends} == {
        tuple(f"method {n} (seed 0)" for n in range(methods))}
    colours = [[line.get_color() for line in axis.get_lines() if "method" in str(line.get_label())] for axis in axes]
    assert len(set(colours[0])) == methods and colours[0] == colours[1] == colours[2]
    assert "\n".join(figure.get_suptitle().splitlines()[:-1]) == frame.experiment.title
    assert figure.get_suptitle().endswith("stand-in models and data")


@pytest.mark.parametrize("rows", [["Ours"], ["Ours", "GRPO"]])
def test_a_histogram_overlays_the_splits_below_its_legend(frame, rows):
    edges, counts = np.array([0.0, 1.0, 3.0]), {"train": np.array([3.0, 1.0]), "validation": np.array([0.0, 2.0])}
    made = [Histogram("log-probability", row, split, edges, one) for row in rows for split, one in counts.items()]
    figure = plots.draw_histograms(frame, made)
    axes = shown(figure)
    assert [axis.get_title() for axis in axes] == (
        ["log-probability"] if len(rows) == 1 else [f"{row}: log-probability" for row in rows])
    for axis in axes:
        assert [text.get_text() for text in axis.get_legend().get_texts()] == ["train (n=4)", "validation (n=2)"]
        drawn = {tuple(np.round(patch.get_data().values, 6)) for patch in axis.patches}
        assert drawn == {(0.75, 0.125), (0.0, 0.5)}
        assert len({patch.get_edgecolor()[:3] for patch in axis.patches if not patch.get_fill()}) == 2
        assert axis.get_ylim()[1] > 1.2 * 0.75
        assert axis.get_ylabel() == "density"
    assert frame.experiment.title in figure.get_suptitle()


@pytest.mark.parametrize(("scale", "panels"), [
    ("tiny", {"m (paper)": {5}, "m (here)": {1, 2, 3}, "k (here)": {1, 2, 3}}), ("paper", {"m": {1, 2, 3, 5}, "k": {1, 2, 3}})])
def test_what_the_paper_prints_has_a_panel_of_its_own_beside_stand_ins(tmp_path, scale, panels):
    frame = frame_of(tmp_path, [cell(tmp_path, greedy(0.0, 1.0))], scale)
    rows = [{"panel": panel, "method": "Ours", "published": printed, "reproduced": "2", "ci_low": "1", "ci_high": "3"}
            for panel, printed in (("m", "5"), ("k", ""))]
    figure = plots.draw_intervals(frame, rows)
    assert {axis.get_title(): {float(x) for line in axis.get_lines() for x in np.ravel(line.get_xdata())}
            for axis in shown(figure)} == panels
    assert frame.experiment.title in figure.get_suptitle()


def test_a_picture_is_drawn_when_it_would_be_another_and_goes_with_its_numbers(frame, tmp_path):
    archive, folder = Archive(tmp_path), tmp_path / "figures"
    paths = plots.write(archive, frame, folder)
    assert sorted(path.name for path in paths) == ["wide_tab.csv", "wide_tab.png", "wide_tab.svg"]
    svg = next(path for path in paths if path.suffix == ".svg")
    first = svg.read_bytes()
    retitled = replace(frame, experiment=frame.experiment.model_copy(update={"title": "Another title"}))
    assert plots.write(archive, retitled, folder) == paths and svg.read_bytes() != first
    paths[0].unlink()
    assert plots.write(archive, retitled, folder) == paths and all(path.is_file() for path in paths)
    assert plots.write(archive, replace(frame, entries=()), folder) == [] and not list(folder.iterdir())
