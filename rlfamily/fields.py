"""What the rows of a stage may hold, known before any is written: a misspelt metric is refused where it is planned.

There is no list to keep. A name is known when the code that writes such rows has it as a string: that is more than what
one method or one task writes, and a misspelt name is not among it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from rlfamily import algorithms
from rlfamily.config import RunConfig, algorithm_settings
from rlfamily.decoding import Cost
from rlfamily.errors import UserError, nearest
from rlfamily.experiment import Experiment
from rlfamily.quantities import READ, Metric, Where
from rlfamily.rewards import preference

PACKAGE = Path(__file__).parent
WRITERS = {
    "generate": ("evaluation/sampler.py",),
    "score": ("evaluation/score.py", "tasks/*.py", "tasks/support/*.py", "rewards/*.py"),
    "train": ("trainer/metrics.py", "trainer/loop.py", "core/*.py", "algorithms/*.py"),
    "timings": ("trainer/loop.py", "rollout/clock.py"),
    "logprobs": ("evaluation/logprobs.py",),
    "targets": ("evaluation/targets.py",),
    "latency": ("evaluation/latency.py",),
    "accuracy": ("evaluation/accuracy.py",),
    "judge": ("stages/kinds/judge.py",),
    "theory": ("theory/*.py",),
}
VALUES = {"mode": ("greedy", "sample"), "split": ("train", "validation"), "order": ("both", "one")}
_STRING = re.compile(r"""["']([A-Za-z_]\w*)["']""")


def check(experiment: Experiment, configs: Mapping[str, list[RunConfig]]) -> None:
    """Raise UserError for a metric whose field, or whose `where`, no row can have; `configs` are a column's cells."""
    planned = [config for group in configs.values() for config in group]
    values = _values(experiment, planned)
    of_columns = {column: _values(experiment, group) for column, group in configs.items()}
    for metric in experiment.metrics:
        if metric.stage == "config":
            _check_setting(metric, planned)
            continue
        known = _known(metric.stage, planned)
        _require(metric.field, known, f"metric '{metric.name}'", f"field of stage {metric.stage}")
        _check_where(metric.where, known, f"metric '{metric.name}'", values)
        for column, spec in experiment.columns.items() if metric.stage in READ else ():
            _check_where(spec.where, known, f"column '{column}'", of_columns[column])
        for row, one in experiment.rows.items() if metric.stage in READ else ():
            _check_where(one.where, known, f"row '{row}'", values)


def _check_where(where: Where, known: Iterable[str], place: str, values: Mapping[str, Iterable[str]]) -> None:
    for name, value in where.items():
        _require(name, known, f"{place}: where", "field")
        if name in values:
            _require(str(value), values[name], f"{place}: where", name)


def _require(name: str, known: Iterable[str], place: str, what: str) -> None:
    if name not in known:
        few = sorted(known)
        there = f"; there is {', '.join(few)}" if 0 < len(few) < 10 else ""
        raise UserError(f"{place}: no {what} '{name}'{nearest(name, few)}{there}: correct the experiment's yaml")


def _values(experiment: Experiment, configs: Iterable[RunConfig]) -> dict[str, Iterable[str]]:
    """What some fields can say; no benchmark at all where the task has none."""
    benchmarks = {name: None for config in configs for name in config.task.benchmarks}
    subsets = {name: None for config in configs for name in config.task.subsets}
    checks = {"check": experiment.theory.checks} if experiment.theory else {}
    return {**VALUES, "benchmark": benchmarks, "subset": subsets, **checks}


def _known(stage: str, configs: Iterable[RunConfig]) -> set[str]:
    found = set(written(stage))
    if stage == "generate":
        found |= Cost().counters().keys()
    if stage in ("score", "train"):
        parts = written("score") | {name for config in configs if isinstance(config.task.reward, preference.Config)
                                     for name in config.task.reward.components}
        measured = {name for config in configs for name in config.task.metrics}
        found |= parts | measured if stage == "score" else {f"mean_{part}" for part in parts}
    return found


@cache
def written(stage: str) -> frozenset[str]:
    """Every string in the code of a stage's writers that could be a field's name."""
    files = [path for pattern in WRITERS[stage] for path in PACKAGE.glob(pattern)]
    return frozenset(name for path in files for name in _STRING.findall(path.read_text(encoding="utf-8")))


def _check_setting(metric: Metric, configs: Iterable[RunConfig]) -> None:
    """A setting is known when a cell has it, or a method that may stand in another row."""
    missed: dict[str, list[str]] = {}
    for settings in _settings(configs):
        missing = _missing(settings, metric.field)
        if missing is None:
            return
        missed.setdefault(missing[0], []).extend(missing[1])
    name = max(missed, key=len)  # the path that leads furthest
    _require(name, missed[name], f"metric '{metric.name}'", "setting")


def _settings(configs: Iterable[RunConfig]) -> Iterable[dict[str, Any]]:
    for config in configs:
        yield config.settings()
    for name in algorithms.names():
        yield {"algorithm": algorithm_settings(name).model_dump(mode="json")}


def _missing(settings: Any, path: str) -> tuple[str, list[str]] | None:
    """How far a dotted path leads, its first unknown part included, with the paths there are; None for all of it."""
    before = ""
    for part in path.split("."):
        if not isinstance(settings, dict) or part not in settings:
            return before + part, [before + name for name in settings] if isinstance(settings, dict) else []
        settings, before = settings[part], f"{before}{part}."
    return None
