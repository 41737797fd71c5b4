"""From an index and its artifacts to entries: one printed number each, with its draws, its runs and its holes.

An entry is a model x row x column x quantity of an experiment, aggregated over seeds. Nothing is averaged silently: a
seed that is missing, failed or not finite is named in the entry's note, and an entry without any usable seed is a hole.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from eval import statistics
from eval.artifacts import Archive, Published
from eval.series import Series, Unusable, best_seed, common, draw, narrowed, read_rows, read_series
from eval.statistics import Floats
from eval.values import printed
from eval.verdicts import FAILED, NOT_APPLICABLE, NOT_RUN, verdict
from eval.whole import estimator
from rlfamily.experiment import Experiment
from rlfamily.quantities import STEPS, Metric, Quantity
from rlfamily.records import CellEntry, Index

NO_DRAWS: Floats = np.empty(0)


@dataclass(frozen=True)
class Site:
    """Where an entry stands, and what it is compared with there.

    spread   range of the published values over the rows: what an interval must resolve to tell rows apart
    several  the experiment has several columns, so that its tasks are resampled apart
    """

    model: str
    row: str
    column: str
    published: Published | None
    scale: str
    spread: float
    several: bool = False


@dataclass(frozen=True)
class Entry:
    """One printed number.

    value    over the usable seeds their mean, or the best; the setting itself in a settings table; None for a hole
    draws    bootstrap draws [D] of `value`; empty for settings, theory and holes
    n        rows behind the number over all usable seeds: responses, training steps or examples
    runs     (seed, artifact key) of every usable seed: the artifact the number was read from
    hole     why there is no number: "not run", "failed" or "not applicable"; empty when there is one
    warnings  what a reader must not miss, in a word or two before a colon, e.g. reward hacking; repeated in `note`
    estimator  what the heading must say of how the number was made; "" for an ordinary one
    """

    model: str
    row: str
    column: str
    metric: Quantity
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
    warnings: tuple[str, ...] = ()
    estimator: str = ""

    def warned(self, warnings: tuple[str, ...]) -> Entry:
        """The entry with further warnings, which stand first in its note."""
        note = "; ".join(part for part in (*warnings, self.note) if part)
        return replace(self, warnings=(*self.warnings, *warnings), note=note)

    def noted(self, note: str) -> Entry:
        """The entry with a further note, which stands last."""
        return replace(self, note="; ".join(part for part in (self.note, note) if part))


def hole(site: Site, metric: Quantity, word: str, note: str, runs: tuple[tuple[int, str], ...] = ()) -> Entry:
    """The entry of a site without a number."""
    return Entry(site.model, site.row, site.column, metric, site.published, None, NO_DRAWS, math.nan, math.nan, 0,
                 (), runs, word, word, note)


def dotted(config: dict[str, Any], path: str) -> Any:
    """Value of a dotted key of a nested dict. Raises Unusable when there is none."""
    value: Any = config
    for part in path.split("."):
        if not isinstance(value, dict) or part not in value:
            raise Unusable(f"the resolved config has no {path}", NOT_APPLICABLE)
        value = value[part]
    return value


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


def chosen(archive: Archive, cells: list[CellEntry], metric: Metric) -> list[CellEntry]:
    """The cell of the seed that is best by a metric; all when none can be read."""
    usable = []
    for cell in cells:
        with suppress(Unusable):
            usable.append(read_series(archive, cell, metric))
    seed = best_seed(common(usable), metric) if usable else None
    return [cell for cell in cells if seed in (None, cell.seed)]


def measured(archive: Archive, cells: list[CellEntry], metric: Metric, site: Site) -> Entry:
    """The entry of a metric that is read from artifacts, over all seeds of one site."""
    series: list[Series] = []
    problems, holes = {}, set()
    for cell in cells:
        try:
            one = read_series(archive, cell, metric)
            if one.key not in {other.key for other in series}:  # one run is one run, however often it is named
                series.append(one)
        except Unusable as error:
            problems[cell.seed] = str(error)
            holes.add(error.hole)
    most = max((len(one.items) for one in series), default=0)
    series = common(series) if series and metric.stage not in STEPS else series
    if not series or not series[0].items:
        word = next((word for word in (FAILED, NOT_RUN, NOT_APPLICABLE) if word in holes), FAILED)
        return hole(site, metric, word, _note([], problems, most))
    dropped = most - len(series[0].items) if metric.stage not in STEPS else 0
    name = (site.row, site.column, site.model) if site.several else (site.row, site.column)
    value, draws = draw(series, metric, name, site.column if site.several else "")
    return _sampled(series, metric, site, value, draws,
                    _note([one.seed for one in series], problems, dropped))


def _sampled(series: list[Series], metric: Metric, site: Site, value: float, draws: Floats, note: str) -> Entry:
    low, high = statistics.interval(draws)
    seeds = tuple(one.seed for one in series)
    if metric.over_seeds == "best" and len(seeds) > 1:
        which = f"best of {len(seeds)} seeds: seed {best_seed(series, metric)}"
        note = "; ".join(part for part in (which, note) if part)
    return Entry(site.model, site.row, site.column, metric, site.published, value, draws, low, high,
                 sum(one.rows for one in series), seeds, tuple((one.seed, one.key) for one in series), "",
                 verdict(site.published, value, low, high, len(seeds), site.scale, site.spread), note,
                 estimator=estimator(series[0].values, metric))


def setting(cells: list[CellEntry], metric: Metric, site: Site) -> Entry:
    """The entry of a resolved setting: the same at every seed, compared exactly with the paper's."""
    runs = tuple((cell.seed, cell.stages["train"]) for cell in cells if "train" in cell.stages)
    try:
        value = dotted(cells[0].config, metric.field)
    except Unusable as error:
        return hole(site, metric, error.hole, str(error), runs)
    shown = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
    return _exact(cells, metric, site, shown, runs)


def computed(archive: Archive, cells: list[CellEntry], metric: Metric, site: Site) -> Entry:
    """The entry of a theory check: computed, not sampled, so it has no interval and no draws."""
    try:
        key, rows = read_rows(archive, cells[0], metric)
    except Unusable as error:
        # A check has numbers at some places of its table and none at others, by design: no reason to print.
        return hole(site, metric, error.hole, "" if error.hole == NOT_APPLICABLE else str(error))
    value = metric.times * float(np.mean([row[metric.field] for row in rows]))
    return _exact(cells[:1], metric, site, value, ((cells[0].seed, key),))


def _exact(
    cells: list[CellEntry], metric: Metric, site: Site, value: float | str, runs: tuple[tuple[int, str], ...]
) -> Entry:
    bound = value if isinstance(value, float) else math.nan
    return Entry(site.model, site.row, site.column, metric, site.published, value, NO_DRAWS, bound, bound,
                 len(cells), tuple(cell.seed for cell in cells), runs, "",
                 verdict(site.published, value, bound, bound, len(cells), site.scale, 0.0, exact=True), "")


def published_of(
    archive: Archive, experiment: Experiment, model: str, row: str, column: str, metric: Quantity
) -> Published | None:
    """What the paper prints at this site; None when the row or the metric has no such number."""
    label = experiment.rows[row].published
    if not label:
        return None
    return archive.published(experiment.published, model=model, method=label, task_or_benchmark=column,
                             metric=metric.published or metric.name)


def sites(
    archive: Archive, index: Index, experiment: Experiment, column: str, metric: Quantity
) -> dict[tuple[str, str], Site]:
    """The sites of one column and quantity, by model and row; optional rows that nobody asked for have none."""
    there = {cell.row for cell in index.cells}
    rows = [row for row, spec in experiment.rows.items() if row in there or not spec.optional]
    several = len(experiment.columns) > 1
    made: dict[tuple[str, str], Site] = {}
    for model in experiment.backbones:
        printed = {row: published_of(archive, experiment, model, row, column, metric) for row in rows}
        spread = _spread(list(printed.values()))
        made |= {(model, row): Site(model, row, column, printed[row], index.scale, spread, several) for row in rows}
    return made


def _spread(published: list[Published | None]) -> float:
    """Range of a metric's published values over the rows: what an interval must resolve to tell the rows apart."""
    values = [printed(one.value) for one in published if one is not None and not math.isnan(printed(one.value))]
    return max(values) - min(values) if len(values) > 1 else math.inf


def entries(archive: Archive, index: Index, experiment: Experiment) -> list[Entry]:
    """Every entry that is read from an artifact, in the order models, rows, columns, metrics."""
    cells: dict[tuple[str, str, str], list[CellEntry]] = {}
    for cell in index.cells:
        cells.setdefault((cell.model, cell.row, cell.column), []).append(cell)
    made = []
    for column, spec in experiment.columns.items():
        for metric in experiment.metrics:
            judge = experiment.named_metrics().get(metric.seed_of)
            for (model, row), site in sites(archive, index, experiment, column, metric).items():
                wheres = spec.where, experiment.rows[row].where
                there, seeds = cells.get((model, row, column), []), 0
                if judge is not None and there:
                    seeds, there = len(there), chosen(archive, there, narrowed(judge, *wheres))
                entry = _entry(archive, there, narrowed(metric, *wheres), site)
                if len(there) < seeds:
                    entry = entry.noted(f"seed {there[0].seed}, the best of {seeds} by {metric.seed_of}")
                made.append(entry)
    return in_order(made, experiment)


def in_order(made: list[Entry], experiment: Experiment) -> list[Entry]:
    """By model and row, as the experiment lists them; inside a row as they were made."""
    models, rows = list(experiment.backbones), list(experiment.rows)
    return sorted(made, key=lambda one: (models.index(one.model), rows.index(one.row)))


def _entry(archive: Archive, cells: list[CellEntry], metric: Metric, site: Site) -> Entry:
    if not cells:
        return hole(site, metric, NOT_RUN, "no cell of this row was planned")
    if metric.stage == "config":
        return setting(cells, metric, site)
    if metric.stage == "theory":
        return computed(archive, cells, metric, site)
    return measured(archive, cells, metric, site)
