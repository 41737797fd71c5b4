"""From an index and its artifacts to entries: one printed number each, with its draws, its runs and its holes.

An entry is a row x column x metric of an experiment, aggregated over seeds. Nothing is averaged silently: a seed that
is missing, failed or not finite is named in the entry's note, and an entry without any usable seed is a hole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval import statistics
from eval.artifacts import ROWS_FILE, Published, Results
from eval.statistics import Floats
from eval.verdicts import FAILED, NOT_APPLICABLE, NOT_RUN, verdict
from rlfamily.experiment import Experiment, Metric
from rlfamily.records import CellEntry, Index


@dataclass(frozen=True)
class Entry:
    """One printed number.

    value    mean over the usable seeds; the setting itself in a settings table; None for a hole
    draws    bootstrap draws [D] of `value`; empty for settings and holes
    n        rows behind the number over all usable seeds: responses, training steps or examples
    runs     (seed, artifact key) of every usable seed: the artifact the number was read from
    hole     why there is no number: "not run", "failed" or "not applicable"; empty when there is one
    """

    row: str
    column: str
    metric: Metric
    published: Published | None
    value: float | str | None
    draws: Floats
    low: float
    high: float
    n: int
    seeds: tuple[int, ...]
    runs: tuple[tuple[int, str], ...]
    hole: str
    verdict: str
    note: str


@dataclass(frozen=True)
class Series:
    """What one seed contributes: values and times (item positions, or training progress), aligned with `items`."""

    seed: int
    key: str
    items: tuple[Any, ...]
    values: Floats
    times: Floats
    rows: int


class Unusable(Exception):
    """A seed cannot contribute: its artifact is absent or its numbers are not finite. The message says why."""

    def __init__(self, reason: str, hole: str = FAILED) -> None:
        super().__init__(reason)
        self.hole = hole


NO_DRAWS: Floats = np.empty(0)


def dotted(config: dict[str, Any], path: str) -> Any:
    """Value of a dotted key of a nested dict. Raises Unusable when there is none."""
    value: Any = config
    for part in path.split("."):
        if not isinstance(value, dict) or part not in value:
            raise Unusable(f"the resolved config has no {path}")
        value = value[part]
    return value


def _absent(cell: CellEntry) -> Unusable:
    """Why a cell has no artifact of a stage."""
    state = {"done": "lost its artifact", "missing": "not run"}.get(cell.status, cell.status)
    return Unusable(f"{state}: {cell.reason}" if cell.reason else state,
                    NOT_RUN if cell.status in ("missing", "done") else FAILED)


def read_rows(results: Results, cell: CellEntry, metric: Metric) -> tuple[str, list[dict[str, Any]]]:
    """Artifact key and the rows a metric selects in one cell. Raises Unusable when there is nothing to read."""
    key = cell.stages.get(metric.stage, "")
    if not key or results.manifest(key) is None:
        raise _absent(cell)
    rows = [row for row in results.rows(key, ROWS_FILE[metric.stage])
            if metric.field in row
            and all(row.get(name) == value for name, value in metric.where.items())]
    if not rows:
        chosen = "".join(f" where {name} is {value}" for name, value in metric.where.items())
        raise Unusable(f"has no {metric.field}{chosen} in {ROWS_FILE[metric.stage]}", NOT_APPLICABLE)
    rows = rows[len(rows) - max(1, round(metric.window * len(rows))):]
    if len(rows) < statistics.LEAST_ITEMS[metric.reduce]:
        raise Unusable(f"has {len(rows)} rows, too few for a {metric.reduce}")
    wild = sum(not math.isfinite(row[metric.field]) for row in rows)
    if wild:
        raise Unusable(f"has {wild} of {len(rows)} values that are not finite")
    return key, rows


def read_series(results: Results, cell: CellEntry, metric: Metric) -> Series:
    """One seed's values: of scores the mean over a puzzle's draws, else the rows as they are. Raises Unusable."""
    key, rows = read_rows(results, cell, metric)
    if metric.stage == "train":
        times = np.array([row.get("progress", row["step"]) for row in rows], dtype=float)
        values = np.array([row[metric.field] for row in rows], dtype=float)
        return Series(cell.seed, key, tuple(range(len(rows))), values, times, len(rows))
    by_item: dict[Any, list[float]] = {}
    for row in rows:
        by_item.setdefault((row.get("split", ""), row["item"]), []).append(row[metric.field])
    items = tuple(sorted(by_item))
    values = np.array([np.mean(by_item[item]) for item in items])
    return Series(cell.seed, key, items, values, np.arange(len(items), dtype=float), len(rows))


def _common(series: list[Series]) -> list[Series]:
    """Keep the items every seed has, so that seeds are compared on the same puzzles."""
    shared = set(series[0].items).intersection(*(one.items for one in series))
    kept = []
    for one in series:
        keep = [position for position, item in enumerate(one.items) if item in shared]
        items = tuple(one.items[position] for position in keep)
        kept.append(Series(one.seed, one.key, items, one.values[keep], one.times[keep], one.rows))
    return kept


def draw(series: list[Series], metric: Metric, cell_name: tuple[str, str]) -> tuple[float, Floats]:
    """Point estimate and bootstrap draws [D] of the mean over seeds of the metric's statistic.

    Streams are named by what is resampled: the same puzzles or seeds in two rows give the same draws (paired), while
    the steps of two runs are drawn apart.
    """
    statistic = statistics.REDUCE[metric.reduce]
    drawn = []
    for one in series:
        steps = metric.stage == "train"
        names = ("steps", *cell_name, one.seed, len(one.items)) if steps else ("items", one.items)
        block = statistics.block_length(len(one.items)) if steps else 1
        indices = statistics.item_draws(
            statistics.stream(*names), len(one.items), statistics.DRAWS, block)
        drawn.append(statistics.seed_statistics(one.values, one.times, indices, statistic))
    seeds = tuple(one.seed for one in series)
    weights = statistics.seed_weights(
        statistics.stream("seeds", seeds), len(seeds), statistics.DRAWS)
    value = float(np.mean([statistic(one.values, one.times) for one in series]))
    return value, statistics.combine(np.stack(drawn, axis=1), weights)


def _note(used: list[int], problems: dict[int, str], dropped: int) -> str:
    parts = []
    if used and problems:
        parts.append(f"{len(used)} of {len(used) + len(problems)} seeds")
    reasons: dict[str, list[int]] = {}
    for seed, reason in problems.items():
        reasons.setdefault(reason, []).append(seed)
    for reason, seeds in reasons.items():
        label = "seed" if len(seeds) == 1 else "seeds"
        parts.append(f"{label} {', '.join(map(str, seeds))} {reason}")
    if dropped:
        parts.append(f"{dropped} items left out because not every seed has them")
    return "; ".join(parts)


def measured(
    results: Results, cells: list[CellEntry], metric: Metric, published: Published | None, scale: str, spread: float,
) -> Entry:
    """The entry of a metric that is read from artifacts, over all seeds of one row and column."""
    row, column = cells[0].row, cells[0].column
    series, problems, holes = [], {}, set()
    for cell in cells:
        try:
            series.append(read_series(results, cell, metric))
        except Unusable as error:
            problems[cell.seed] = str(error)
            holes.add(error.hole)
    most = max((len(one.items) for one in series), default=0)
    series = _common(series) if series and metric.stage != "train" else series
    if not series or not series[0].items:
        hole = next((word for word in (FAILED, NOT_RUN, NOT_APPLICABLE) if word in holes), FAILED)
        return Entry(row, column, metric, published, None, NO_DRAWS, math.nan, math.nan, 0, (), (), hole, hole,
                     _note([], problems, most))
    value, draws = draw(series, metric, (row, column))
    low, high = statistics.interval(draws)
    seeds = tuple(one.seed for one in series)
    dropped = most - len(series[0].items) if metric.stage != "train" else 0
    return Entry(row, column, metric, published, value, draws, low, high, sum(one.rows for one in series), seeds,
                 tuple((one.seed, one.key) for one in series), "",
                 verdict(published, value, low, high, len(seeds), scale, spread),
                 _note(list(seeds), problems, dropped))


def setting(cells: list[CellEntry], metric: Metric, published: Published | None, scale: str) -> Entry:
    """The entry of a resolved setting: the same at every seed, compared exactly with the paper's."""
    row, column = cells[0].row, cells[0].column
    runs = tuple((cell.seed, cell.stages["train"]) for cell in cells if "train" in cell.stages)
    try:
        value = dotted(cells[0].config, metric.field)
    except Unusable as error:
        return Entry(row, column, metric, published, None, NO_DRAWS, math.nan, math.nan, 0, (), runs, NOT_RUN, NOT_RUN,
                     str(error))
    shown = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
    bounds = shown if isinstance(shown, float) else math.nan
    return Entry(row, column, metric, published, shown, NO_DRAWS, bounds, bounds, len(cells),
                 tuple(cell.seed for cell in cells), runs, "",
                 verdict(published, shown, bounds, bounds, len(cells), scale, 0.0, exact=True), "")


def published_of(results: Results, experiment: Experiment, row: str, column: str, metric: Metric) -> Published | None:
    """What the paper prints for this row, column and metric; None when the row or the metric has no such number."""
    label = experiment.rows[row].published
    if not label:
        return None
    return results.published(experiment.published, model=experiment.model, method=label, task_or_benchmark=column,
                             metric=metric.published or metric.name)


def _spread(published: list[Published | None]) -> float:
    """Range of a metric's published values over the rows: what an interval must resolve to tell the rows apart."""
    values = [float(one.value) for one in published if one is not None and _is_number(one.value)]
    return max(values) - min(values) if len(values) > 1 else math.inf


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def entries(results: Results, index: Index, experiment: Experiment) -> list[Entry]:
    """Every entry of an experiment, in the order rows, columns, metrics."""
    cells: dict[tuple[str, str], list[CellEntry]] = {}
    for cell in index.cells:
        cells.setdefault((cell.row, cell.column), []).append(cell)
    made = []
    for metric in experiment.metrics:
        for column in experiment.columns:
            printed = {row: published_of(results, experiment, row, column, metric) for row in experiment.rows}
            spread = _spread(list(printed.values()))
            for row in experiment.rows:
                group = cells.get((row, column), [])
                made.append(_entry(results, group, row, column, metric, printed[row], index.scale, spread))
    order = {row: position for position, row in enumerate(experiment.rows)}
    return sorted(made, key=lambda one: order[one.row])


def _entry(
    results: Results, cells: list[CellEntry], row: str, column: str, metric: Metric, published: Published | None,
    scale: str, spread: float,
) -> Entry:
    if not cells:
        return Entry(row, column, metric, published, None, NO_DRAWS, math.nan, math.nan, 0, (), (), NOT_RUN, NOT_RUN,
                     "no cell of this row was planned")
    if metric.stage == "config":
        return setting(cells, metric, published, scale)
    return measured(results, cells, metric, published, scale, spread)
