"""Figures: rows of eval.figures in, matplotlib figures out, written as png, svg and csv with the same bytes each time.

matplotlib is imported inside the functions, so that importing this module costs nothing.
"""

from __future__ import annotations

import hashlib
import math
import os
import textwrap
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eval import figures
from eval.artifacts import Archive
from eval.figures import Curve, Histogram
from eval.tables import TableFrame, to_csv
from eval.values import one_line, printed
from rlfamily.records import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# As many as the methods of the longest table, so that no two share a colour.
COLOURS = ["#2f6db5", "#d1662f", "#3a8f5c", "#8a5fa8", "#b8912b", "#c24d72", "#4aa3a8", "#7a7a7a", "#111111", "#8c5a3c",
           "#9bbf3b", "#e39ac0"]
FEW = 3  # methods that share a panel without hiding each other's runs
STYLE = {
    "text.parse_math": False,  # a name may hold dollars
    "svg.hashsalt": "rlfamily", "svg.fonttype": "path", "font.size": 9.0, "axes.titlesize": 9.5,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6, "axes.axisbelow": True, "axes.edgecolor": "#888888", "legend.frameon": False,
    "legend.fontsize": 8.0, "figure.facecolor": "white", "savefig.facecolor": "white",
}


@dataclass(frozen=True)
class Kind:
    """How one kind of experiment is drawn: its data, the csv of it, and the picture of it."""

    read: Callable[[Archive, TableFrame], list[Any]]
    rows: Callable[[list[Any]], list[dict[str, str]]]
    columns: list[str]
    draw: Callable[[TableFrame, list[Any]], Figure]


def write(archive: Archive, frame: TableFrame, folder: Path) -> list[Path]:
    """Write <folder>/<name>.{png,svg,csv}; nothing for settings tables and for experiments without any number yet.

    Pictures of the same data by the same code are left as they are: the svg, written last, carries a fingerprint.
    """
    kind = KINDS.get(frame.experiment.kind)
    data = kind.read(archive, frame) if kind else []
    png, svg, csv = paths = [folder / f"{frame.name}.{suffix}" for suffix in ("png", "svg", "csv")]
    if kind is None or not data:
        for path in paths:  # a picture of numbers that are gone would stand beside holes
            path.unlink(missing_ok=True)
        return []
    text = to_csv(kind.rows(data), kind.columns)
    fingerprint = _fingerprint(text, _title(frame))
    if all(path.is_file() for path in paths) and fingerprint in svg.read_text("utf-8", errors="replace"):
        return paths
    import matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a box stands for it
        figure = kind.draw(frame, data)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out once, for both files
        write_atomic(csv, text)
        _save(figure, png, {"Software": None})  # names of programs and dates would make equal pictures differ
        _save(figure, svg, {"Date": None, "Description": fingerprint})
    return paths


def _fingerprint(*drawn: str) -> str:
    code = Path(__file__).read_text("utf-8")
    return hashlib.blake2b("\0".join([*drawn, code, version("matplotlib")]).encode(), digest_size=16).hexdigest()


def _save(figure: Figure, path: Path, metadata: dict[str, str | None]) -> None:
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    figure.savefig(temporary, dpi=150, metadata=metadata)
    os.replace(temporary, path)


def name(text: str) -> str:
    """A name as pictures can show it: one line, and a blank before an underscore, which would hide it from legends."""
    shown = one_line(text)
    return f" {shown}" if shown.startswith("_") else shown


def _grid(panels: int, across: int, height: float, share_y: bool) -> tuple[Figure, list[Axes]]:
    """A figure with `panels` axes, `across` a line; lines are `height` inches."""
    from matplotlib.figure import Figure

    lines = math.ceil(panels / across)
    figure = Figure(figsize=(3.6 * across, height * lines), layout="constrained")
    axes: Any = figure.subplots(lines, across, squeeze=False, sharey=share_y)
    flat = list(axes.flat)
    for unused in flat[panels:]:
        unused.set_visible(False)
    return figure, flat[:panels]


def draw_curves(frame: TableFrame, made: list[Curve]) -> Figure:
    """A panel a metric, task and model; per method the mean of its smoothed runs, shaded by their standard deviation.

    Where few methods share the panels, the runs themselves are drawn faintly below.
    """
    panels = list(dict.fromkeys(one.panel for one in made))
    figure, axes = _grid(len(panels), min(2, len(panels)), 2.9, share_y=False)
    colours = _colours([one.row for one in made])
    raw = len(colours) <= FEW
    for axis, panel in zip(axes, panels, strict=True):
        for row, colour in colours.items():
            plot_curves(axis, [one for one in made if one.panel == panel and one.row == row], row, colour, raw)
        axis.set(title=name(panel), xlabel="training step")
        axis.margins(x=0.01)
        if raw:
            axis.legend()
    if not raw:  # one legend for all panels
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.suptitle(_title(frame, figure.get_figwidth()), fontsize=10)
    return figure


def _colours(names: list[str]) -> dict[str, str]:
    unique = list(dict.fromkeys(names))
    return {name: COLOURS[position % len(COLOURS)] for position, name in enumerate(unique)}


def _title(frame: TableFrame, inches: float = 7.2) -> str:
    """The title, broken into lines that a figure of this width holds."""
    lines = textwrap.wrap(name(frame.experiment.title), int(12 * inches))
    return "\n".join([*lines, "stand-in models and data"] if frame.banner else lines)


def plot_curves(axis: Axes, made: list[Curve], label: str, colour: str, raw: bool) -> None:
    """Draw one method's runs on an axis: mean and shaded standard deviation over seeds; the runs too when `raw`."""
    for one in made if raw else []:
        axis.plot(one.steps, one.values, color=colour, linewidth=0.4, alpha=0.22)
        axis.plot(one.steps, one.smoothed, color=colour, linewidth=0.7, alpha=0.55)
    if made:
        shortest = min(made, key=lambda one: len(one.steps))
        runs = np.array([one.smoothed[:len(shortest.steps)] for one in made])
        mean, spread = runs.mean(axis=0), runs.std(axis=0, ddof=1 if len(made) > 1 else 0)
        if len(made) > 1:
            axis.fill_between(shortest.steps, mean - spread, mean + spread, color=colour, alpha=0.15, linewidth=0)
        seeds = f"{len(made)} seeds" if len(made) > 1 else f"seed {made[0].seed}"
        axis.plot(shortest.steps, mean, color=colour, linewidth=1.9, label=f"{name(label)} ({seeds})")


def draw_histograms(frame: TableFrame, made: list[Histogram]) -> Figure:
    """A panel a quantity, training and validation data overlaid."""
    panels = list(dict.fromkeys((one.panel, one.row) for one in made))
    figure, axes = _grid(len(panels), 2, 2.6, share_y=False)
    rows = {one.row for one in made}
    for axis, (panel, row) in zip(axes, panels, strict=True):
        chosen = [one for one in made if (one.panel, one.row) == (panel, row)]
        for one, colour in zip(chosen, COLOURS, strict=False):
            plot_histogram(axis, one, colour)
        axis.set(title=name(f"{row}: {panel}" if len(rows) > 1 else panel), ylabel="density")
        axis.set_ylim(top=1.35 * axis.get_ylim()[1])  # room for the legend above the bars
        axis.legend()
    figure.suptitle(_title(frame, figure.get_figwidth()), fontsize=10)
    return figure


def plot_histogram(axis: Axes, one: Histogram, colour: str) -> None:
    """Draw one split as a filled outline."""
    label = f"{name(one.split)} (n={int(one.counts.sum())})"
    axis.stairs(one.density, one.edges, color=colour, fill=True, alpha=0.28)
    axis.stairs(one.density, one.edges, color=colour, linewidth=1.2, label=label)


def draw_intervals(frame: TableFrame, rows: list[dict[str, str]]) -> Figure:
    """A panel a metric, a line a method: value and interval. The published value stands in the same panel only where
    it is comparable; beside stand-ins it gets a panel, and a scale, of its own."""
    apart = frame.scale == "tiny"
    panels: list[tuple[str, list[dict[str, str]], tuple[str, ...]]] = []
    for title in dict.fromkeys(row["panel"] for row in rows):
        chosen = [row for row in rows if row["panel"] == title]
        if apart and any(row["published"] for row in chosen):
            panels.append((f"{title} (paper)", chosen, ("published",)))
        panels.append((f"{title} (here)" if apart else title, chosen,
                       ("reproduced",) if apart else ("reproduced", "published")))
    labels = frame.rows
    figure, axes = _grid(len(panels), min(3, len(panels)), 0.9 + 0.27 * len(labels), share_y=True)
    for axis, (title, chosen, what) in zip(axes, panels, strict=True):
        plot_intervals(axis, chosen, labels, what)
        axis.set_title(name(title))
    figure.suptitle(_title(frame, figure.get_figwidth()), fontsize=10)
    return figure


def plot_intervals(axis: Axes, rows: list[dict[str, str]], labels: list[str], what: tuple[str, ...]) -> None:
    """Draw one metric's values with their intervals, a line a method, first method on top."""
    height = {label: len(labels) - position for position, label in enumerate(labels)}
    for row in rows:
        y = height[row["method"]]
        if "published" in what and row["published"]:
            axis.plot(printed(row["published"]), y, "D", markerfacecolor="white", color=COLOURS[1], markersize=5)
        if "reproduced" in what and row["reproduced"]:
            axis.plot([float(row["ci_low"]), float(row["ci_high"])], [y, y], color=COLOURS[0], linewidth=2, alpha=0.6)
            axis.plot(float(row["reproduced"]), y, "o", color=COLOURS[0], markersize=4.5)
    axis.locator_params(axis="x", nbins=4)
    axis.set_yticks(list(height.values()), [name(label) for label in labels])
    axis.set_ylim(0.4, len(labels) + 0.6)


KINDS = {
    "curves": Kind(figures.curves, figures.curve_rows, figures.CURVE_COLUMNS, draw_curves),
    "histogram": Kind(figures.histograms, figures.histogram_rows, figures.HISTOGRAM_COLUMNS, draw_histograms),
    "table": Kind(figures.interval_rows, list, figures.INTERVAL_COLUMNS, draw_intervals),
}
