"""From artifacts to series: what one seed contributes to a number, and the bootstrap draws of several seeds together.

Suffixes: D bootstrap draws, S seeds, I items (held-out puzzles, examples or training steps), T trials per item.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

import numpy as np

from eval import statistics, whole
from eval.artifacts import ROWS_FILE, Archive
from eval.statistics import Floats, Ints
from eval.values import BAD, number_of
from eval.verdicts import FAILED, NOT_APPLICABLE, NOT_RUN
from eval.whole import WHOLE
from rlfamily.quantities import READ, STEPS, Metric, Where
from rlfamily.records import CellEntry


@dataclass(frozen=True)
class Series:
    """What one seed contributes: values [I] (of `trial_std` [I, T], nan where a trial lacks an item; of `WHOLE` numbers
    [I, N]) and times [I] (item positions, or training progress), aligned with `items`. Steps, and judged pairs, weigh
    as many `weights` as they had rows; `binary`: every row says 0 or 1."""

    seed: int
    key: str
    items: tuple[Any, ...]
    values: Floats
    times: Floats
    rows: int
    weights: Floats | None = None
    binary: bool = False

    @property
    def counted(self) -> int:
        """How many items say something."""
        return len(self.items) if self.weights is None else int(np.count_nonzero(self.weights))


class Unusable(Exception):
    """A seed cannot contribute: its artifact is absent or its numbers are not finite. The message says why."""

    def __init__(self, reason: str, hole: str = FAILED) -> None:
        super().__init__(reason)
        self.hole = hole


def narrowed(metric: Metric, *wheres: Where) -> Metric:
    """The metric with what a column and a row demand of the rows it reads."""
    if metric.stage not in READ or not any(wheres):
        return metric
    merged: Where = dict(metric.where)
    for where in wheres:
        merged |= where
    return metric.model_copy(update={"where": merged})


def _absent(cell: CellEntry) -> Unusable:
    """Why a cell has no artifact of a stage."""
    state = {"done": "lost its artifact", "missing": "not run"}.get(cell.status, cell.status)
    return Unusable(f"{state}: {cell.reason}" if cell.reason else state,
                    NOT_RUN if cell.status in ("missing", "done") else FAILED)


def read_rows(archive: Archive, cell: CellEntry, metric: Metric) -> tuple[str, list[dict[str, Any]]]:
    """Artifact key and the rows a metric selects in one cell. Raises Unusable when there is nothing to read."""
    key = cell.stages.get("train" if metric.stage in STEPS else metric.stage, "")
    if not key and cell.status == "done":
        raise Unusable(f"has no {metric.stage} stage", NOT_APPLICABLE)
    if not key or archive.manifest(key) is None:
        raise _absent(cell)
    file = ROWS_FILE[metric.stage]
    if altered := archive.altered(key, file):
        raise Unusable(altered)
    unreadable = sum(BAD in row for row in archive.rows(key, file))
    if unreadable:
        raise Unusable(f"has {unreadable} unreadable lines in {file}")
    rows = [row for row in archive.select(key, file, metric.where) if metric.field in row]
    if not rows:
        where = "".join(f" where {name} is {value}" for name, value in metric.where.items())
        near = _misspelt(archive.rows(key, file), metric)
        raise Unusable(f"has no {metric.field}{where} in {file}{near}", FAILED if near else NOT_APPLICABLE)
    rows = rows[len(rows) - max(1, round(metric.window * len(rows))):]
    if len(rows) < statistics.LEAST_ITEMS[metric.reduce]:
        raise Unusable(f"has {len(rows)} rows, too few for a {metric.reduce}")
    wild = sum(not whole.usable(row[metric.field], metric) for row in rows)
    if wild:
        raise Unusable(f"has {wild} of {len(rows)} values that are not {whole.what(metric)}")
    if metric.reduce in WHOLE and len({len(row[metric.field]) for row in rows}) > 1:
        raise Unusable(f"knows more of some items than of others ({metric.field})")
    return key, rows


def _misspelt(rows: list[dict[str, Any]], metric: Metric) -> str:
    """What a metric that finds nothing may have meant: the nearest field, or value of one; "" when none is near."""
    fields = {name: None for row in rows for name in row}
    if metric.field not in fields:
        return _near(metric.field, fields)
    for name, value in metric.where.items():
        there = {str(row[name]): None for row in rows if name in row}
        if str(value) not in there and there and isinstance(value, str):
            return _near(value, there)
    return ""


def _near(name: str, there: Iterable[str]) -> str:
    """A misprint's likely meaning; stricter than `nearest`, since many metrics do not apply to every method."""
    found = get_close_matches(name, list(there), 1, 0.8)
    return f" (did you mean '{found[0]}'?)" if found else ""


def read_series(archive: Archive, cell: CellEntry, metric: Metric) -> Series:
    """One seed's values: of scores a number an item (see `per_item`), else the rows as they are. Raises Unusable.

    Pairs that a `where` leaves out of some draws of a judge, or of all, weigh less, or nothing: a mean is wins over
    the questions that decided.
    """
    key, rows = read_rows(archive, cell, metric)
    if metric.stage in STEPS:
        times = np.array([row.get("progress", row["step"]) for row in rows], dtype=float)
        values = metric.times * np.array([row[metric.field] for row in rows], dtype=float)
        weights = np.array([number_of(row.get("rows", 1)) for row in rows])
        sound = bool(np.isfinite(weights).all() and weights.sum() > 0 and (weights >= 0).all())
        return Series(cell.seed, key, tuple(range(len(rows))), values, times, len(rows), weights if sound else None)
    if len({row.get("order") for row in rows}) > 1:
        raise Unusable("mixes verdicts of both orders and of one: say where: {order: both}, or {order: one}")
    by_item: dict[Any, list[dict[str, Any]]] = {}
    if _weighs(metric):
        by_item = {_item(row, position): [] for position, row in enumerate(archive.rows(key, ROWS_FILE["judge"]))}
    for position, row in enumerate(rows):
        by_item.setdefault(_item(row, position), []).append(row)
    items = tuple(sorted(by_item, key=lambda one: (one[0], isinstance(one[1], str), one[1])))
    found = [by_item[item] for item in items]
    values = (1.0 if metric.reduce in WHOLE else metric.times) * (
        _per_trial(found, metric) if metric.reduce == "trial_std" else _per_item(
            [[row[metric.field] for row in _ranked(one, metric)] for one in found], metric))
    binary = metric.reduce in ("mean", "lc_win_rate") and all(
        whole.outcome(row[metric.field]) in (0, 1) for row in rows)
    weights = np.array([len(one) for one in found], dtype=float)
    uneven = _weighs(metric) and len(set(weights.tolist())) > 1
    return Series(cell.seed, key, items, values, np.arange(len(items), dtype=float), len(rows),
                  weights if uneven else None, binary)


def _item(row: dict[str, Any], position: int) -> tuple[str, Any]:
    item = row.get("item", position)
    return str(row.get("split", "")), item if isinstance(item, int) else str(item)


def _weighs(metric: Metric) -> bool:
    """True where a number is a mean of a judge's rows, of which a pair may have fewer than another."""
    return metric.stage == "judge" and metric.reduce in ("mean", "trial_std") and metric.per_item == "mean"


def _per_trial(found: list[list[dict[str, Any]]], metric: Metric) -> Floats:
    """values_IT by the rows' own draws. Raises Unusable where trials are fewer than two, or lack items of a score."""
    rows = [{row.get("draw", place): row[metric.field] for place, row in enumerate(one)} for one in found]
    trials = sorted({trial for one in rows for trial in one})
    least, most = min(map(len, rows)), max(map(len, rows))
    if len(trials) < 2 or (least < most and not _weighs(metric)):
        raise Unusable(f"has {least} to {most} draws an item: trials need the same number, 2 or more")
    return np.array([[one.get(trial, np.nan) for trial in trials] for one in rows], dtype=float)


def _ranked(rows: list[dict[str, Any]], metric: Metric) -> list[dict[str, Any]]:
    """The draws of an item, the worst first where a metric ranks them. Raises Unusable without ranks."""
    if metric.per_item != "best":
        return rows
    if any(not isinstance(row.get(metric.ranked_by), int | float) for row in rows):
        raise Unusable(f"has draws without a number in {metric.ranked_by}, by which {metric.name} ranks")
    # of equal ones the first drawn is taken: it stands last
    last_first = rows[::-1]
    return sorted(last_first, key=lambda row: float(row[metric.ranked_by]))


def _per_item(draws: list[list[Any]], metric: Metric) -> Floats:
    if metric.reduce in WHOLE:
        return whole.per_item(draws, metric)
    trials = {len(one) for one in draws}
    if min(trials) < metric.draws:
        raise Unusable(f"has {min(trials)} draws of an item: {metric.name} needs {metric.draws}")
    if metric.per_item == "best":
        return np.array([statistics.best_of(metric.draws, one) for one in draws])
    if metric.per_item == "any" and metric.draws and all(value in (0, 1) for one in draws for value in one):
        return np.array([statistics.pass_at(metric.draws, sum(one), len(one)) for one in draws])
    if metric.per_item == "any" and metric.draws and max(map(len, draws)) > metric.draws:
        raise Unusable(f"has {max(map(len, draws))} draws an item and values besides 0 and 1: draw {metric.draws}")
    return np.array([max(one) if metric.per_item == "any" else sum(one) / max(1, len(one))
                     for one in draws], dtype=float)


def common(series: list[Series]) -> list[Series]:
    """Keep the items every seed has, so that seeds are compared on the same puzzles."""
    if len({one.items for one in series}) == 1:
        return series
    shared = set(series[0].items).intersection(*(one.items for one in series))
    kept = []
    for one in series:
        keep = [position for position, item in enumerate(one.items) if item in shared]
        kept.append(replace(one, items=tuple(one.items[position] for position in keep), values=one.values[keep],
                            times=one.times[keep], weights=None if one.weights is None else one.weights[keep]))
    return kept


@lru_cache(maxsize=32)
def _resampled(names: tuple[object, ...], items: int) -> tuple[Ints, Floats]:
    """Resampled items, shared by every row with the same ones: their indices [D, I], and how often each is in [D, I].

    Sums of counts times values are exact for verdicts of 0 and 1, so that equal methods tie in every draw.
    """
    indices_DI = statistics.item_draws(statistics.stream(*names), items, statistics.DRAWS, 1)
    return indices_DI, statistics.counts(indices_DI, items)


def draw(series: list[Series], metric: Metric, place: tuple[object, ...], apart: str = "") -> tuple[float, Floats]:
    """Point estimate and bootstrap draws [D] of the metric's statistic, aggregated over seeds.

    Streams are named by what is resampled: the same puzzles or seeds in two rows give the same draws (paired), while
    the steps of two runs are drawn apart. `apart` keeps the puzzles of several tasks apart, whatever their numbers.
    """
    statistic = statistics.REDUCE[metric.reduce]
    drawn = []
    for one in series:
        if metric.stage in STEPS:
            rng = statistics.stream("steps", *place, one.seed, len(one.items))
            block = statistics.block_length(len(one.items))
            if metric.reduce == "mean":
                drawn.append(_weighted(one, ("steps", *place, one.seed, len(one.items)), block))
                continue
            indices = statistics.item_draws(rng, len(one.items), statistics.DRAWS, block)
            drawn.append(statistics.seed_statistics(one.values, one.times, indices, statistic))
            continue
        names = ("items", apart, one.items) if apart else ("items", one.items)
        indices, counts = _resampled(names, len(one.items))
        if metric.reduce == "mean" and one.weights is not None:
            drawn.append(_ratio(counts @ (one.values * one.weights), counts @ one.weights, one))
        elif metric.reduce == "mean":
            drawn.append(counts @ one.values / len(one.items))
        elif metric.reduce in WHOLE:
            drawn.append(whole.draws(one.values, counts, metric))
        elif metric.reduce == "trial_std":
            drawn.append(statistics.spread(statistics.trial_means(counts, one.values)))
        else:
            drawn.append(statistics.seed_statistics(one.values, one.times, indices, statistic))
    values = _values(series, metric)
    binary = all(one.binary for one in series)
    if binary and metric.over_seeds == "best":
        drawn = [statistics.widened(statistics.stream("pseudo", one.key), drawn_D, one.counted, metric.times)
                 for one, drawn_D in zip(series, drawn, strict=True)]
    value, draws_D = _over_seeds(values, np.stack(drawn, axis=1), tuple(one.seed for one in series), metric)
    if binary and metric.over_seeds != "best":
        rng = statistics.stream("pseudo", *(one.key for one in series))
        draws_D = statistics.widened(rng, draws_D, sum(one.counted for one in series), metric.times)
    return value, draws_D


def best_seed(series: list[Series], metric: Metric) -> int:
    """The seed whose number is the best of all, the first of equals."""
    values = _values(series, metric)
    return series[int(values.argmax() if metric.better == "higher" else values.argmin())].seed


def _values(series: list[Series], metric: Metric) -> Floats:
    """The metric's statistic of each seed."""
    statistic = statistics.REDUCE[metric.reduce]
    times = metric.times if metric.reduce in WHOLE else 1.0
    return times * np.array([statistic(one.values, one.times) if one.weights is None or metric.reduce != "mean"
                     else np.average(one.values, weights=one.weights) for one in series])


def _weighted(one: Series, names: tuple[object, ...], block: int) -> Floats:
    """Draws [D] of the mean over steps, each weighing as many rows as it had."""
    if one.weights is None or len(set(one.weights.tolist())) == 1:
        return statistics.block_means(statistics.stream(*names), one.values, statistics.DRAWS, block)
    above_D = statistics.block_means(statistics.stream(*names), one.values * one.weights, statistics.DRAWS, block)
    below_D = statistics.block_means(statistics.stream(*names), one.weights, statistics.DRAWS, block)
    return _ratio(above_D, below_D, one)


def _ratio(above_D: Floats, below_D: Floats, one: Series) -> Floats:
    """Draws [D] of a weighted mean; a draw without weight says what the series says."""
    mean = np.average(one.values, weights=one.weights)
    return np.divide(above_D, below_D, out=np.full_like(above_D, mean), where=below_D > 0)


def _over_seeds(values_S: Floats, drawn_DS: Floats, seeds: tuple[int, ...], metric: Metric) -> tuple[float, Floats]:
    if metric.over_seeds == "best":
        sign = 1.0 if metric.better == "higher" else -1.0
        chosen_DS = statistics.item_draws(statistics.stream("best of seeds", seeds), len(seeds), len(drawn_DS), 1)
        return float(sign * (sign * values_S).max()), statistics.best(sign * drawn_DS, chosen_DS) * sign
    weights_DS = statistics.seed_weights(statistics.stream("seeds", seeds), len(seeds), len(drawn_DS))
    return float(np.mean(values_S)), statistics.combine(drawn_DS, weights_DS)
