"""The data behind each figure, as tidy rows: what the csv holds is exactly what the picture draws."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.artifacts import Archive
from eval.series import Unusable, read_rows
from eval.statistics import Floats
from eval.tables import TableFrame, exact
from eval.values import number_of
from rlfamily.quantities import Metric
from rlfamily.records import CellEntry

CURVE_COLUMNS = ["panel", "model", "method", "task_or_benchmark", "seed", "step", "value", "smoothed"]
HISTOGRAM_COLUMNS = ["panel", "method", "split", "low", "high", "count", "density"]
INTERVAL_COLUMNS = ["panel", "model", "method", "published", "reproduced", "ci_low", "ci_high", "scale"]
SMOOTH = 20
BINS = 30
TOKENS = {"completion_logp": "completion tokens", "all_logp": "all tokens"}


@dataclass(frozen=True)
class Curve:
    """One run's values of one metric over training steps, and their running mean."""

    panel: str
    model: str
    row: str
    column: str
    seed: int
    steps: Floats
    values: Floats
    smoothed: Floats


@dataclass(frozen=True)
class Histogram:
    """Counts of one split over bins shared by the panel's splits; `edges` has one more element than `counts`."""

    panel: str
    row: str
    split: str
    edges: Floats
    counts: Floats

    @property
    def density(self) -> Floats:
        """Share of the split per unit of x."""
        return self.counts / (self.counts.sum() * np.diff(self.edges))


def running_mean(values: Floats, window: int) -> Floats:
    """Centred running mean; at the ends over the part of the window that exists."""
    kernel = np.ones(max(1, min(window, len(values))))
    total = np.convolve(values, kernel, mode="same")
    return np.asarray(total / np.convolve(np.ones_like(values), kernel, mode="same"), dtype=float)


def curves(archive: Archive, frame: TableFrame) -> list[Curve]:
    """Every usable run's curve of every shown training metric; a panel a metric, task and model."""
    cells = archive.index(frame.name)[0].cells
    made = []
    for metric in frame.experiment.metrics:
        if metric.shown and metric.stage == "train":
            made += [one for cell in cells
                     if (one := _curve(archive, cell, metric, panel(frame, cell.model, cell.column, metric.name)))]
    return made


def panel(frame: TableFrame, model: str, column: str, metric: str) -> str:
    """What a panel shows: the metric, and its task and model where there are several."""
    return ", ".join(part for part, several in (
        (model, len(frame.models) > 1), (column, len(frame.experiment.columns) > 1), (metric, True)) if several)


def _curve(archive: Archive, cell: CellEntry, metric: Metric, panel: str) -> Curve | None:
    try:
        _, rows = read_rows(archive, cell, metric)
    except Unusable:
        return None
    values = np.array([row[metric.field] for row in rows], dtype=float)
    steps = np.array([row["step"] for row in rows], dtype=float)
    smoothed = running_mean(values, len(values) // SMOOTH)
    return Curve(panel, cell.model, cell.row, cell.column, cell.seed, steps, values, smoothed)


def curve_rows(made: list[Curve]) -> list[dict[str, str]]:
    """Rows of a curve figure's csv."""
    return [dict(zip(CURVE_COLUMNS, (one.panel, one.model, one.row, one.column, str(one.seed), exact(step),
                                     exact(value), exact(smooth)), strict=True))
            for one in made
            for step, value, smooth in zip(one.steps, one.values, one.smoothed, strict=True)]


def histograms(archive: Archive, frame: TableFrame) -> list[Histogram]:
    """Log-prob and perplexity histograms, per kind of token and split, seeds pooled."""
    fields = dict.fromkeys(metric.field for metric in frame.experiment.metrics
                           if metric.stage == "logprobs" and metric.shown)
    cells = archive.index(frame.name)[0].cells
    made = []
    for row in frame.rows:
        logprobs = _logprob_rows(archive, [cell for cell in cells if cell.row == row])
        for name in fields:
            splits: dict[str, list[float]] = {}
            for example in logprobs:
                if math.isfinite(number_of(example.get(name))):
                    splits.setdefault(str(example.get("split", "")), []).append(number_of(example[name]))
            tokens = TOKENS.get(name, name)
            made += _binned(f"log-probability, {tokens}", row, {s: np.array(v) for s, v in splits.items()})
            made += _binned(f"perplexity, {tokens}", row, {s: np.exp(-np.array(v)) for s, v in splits.items()})
    return made


def _logprob_rows(archive: Archive, cells: list[CellEntry]) -> list[dict[str, Any]]:
    keys = [cell.stages.get("logprobs", "") for cell in cells]
    return [row for key in keys if key and archive.manifest(key) for row in archive.rows(key, "logprobs.jsonl")]


def _binned(panel: str, row: str, splits: dict[str, Floats]) -> list[Histogram]:
    """Shared bins from the least value to the 99.5th percentile; what lies beyond is counted in the last bin."""
    if not splits:
        return []
    pooled = np.concatenate(list(splits.values()))
    low, high = float(pooled.min()), float(np.quantile(pooled, 0.995))
    edges = np.linspace(low, high if high > low else low + 1.0, BINS + 1)
    return [Histogram(panel, row, split, edges, np.histogram(np.minimum(values, edges[-1]), edges)[0].astype(float))
            for split, values in sorted(splits.items())]


def histogram_rows(made: list[Histogram]) -> list[dict[str, str]]:
    """Rows of a histogram figure's csv."""
    return [dict(zip(HISTOGRAM_COLUMNS, (one.panel, one.row, one.split, exact(float(one.edges[i])),
                                         exact(float(one.edges[i + 1])), str(int(one.counts[i])),
                                         exact(float(one.density[i]))), strict=True))
            for one in made for i in range(len(one.counts))]


def interval_rows(archive: Archive, frame: TableFrame) -> list[dict[str, str]]:
    """Rows of a table's interval plot; none as long as nothing has been measured.

    All shown entries; of a table with several tasks or models the first metric only, which is the paper's own.
    """
    if not frame.panels:
        return []
    wide = len(frame.experiment.columns) > 1 or len(frame.models) > 1
    first = {frame.panels[0][1].name} if wide else {metric.name for _, metric in frame.panels}
    made = []
    for model in frame.models:
        for column, metric in (one for one in frame.panels if one[1].name in first):
            for row in frame.rows:
                entry, _ = frame.at(row, column, metric.name, model)
                if entry.draws.size or entry.published:
                    made.append(dict(zip(INTERVAL_COLUMNS, (
                        panel(frame, model, column, metric.name), model, row,
                        entry.published.value if entry.published else "", exact(entry.value), exact(entry.low),
                        exact(entry.high), frame.scale), strict=True)))
    return made if any(row["reproduced"] for row in made) else []
