"""Numbers made from other entries: derived columns, and the reward-hacking view of a metric and the one it watches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from eval import statistics
from eval.artifacts import Archive
from eval.entries import NO_DRAWS, Entry, Site, hole, in_order, sites
from eval.statistics import Floats, probability
from eval.verdicts import FAILED, NOT_APPLICABLE, NOT_RUN, verdict
from rlfamily.experiment import Experiment
from rlfamily.quantities import Derived, Quantity
from rlfamily.records import Index

SURE = 0.95
NOT_A_MEAN = ("signed root of a product: with {count} of {total} values below zero this is no geometric mean, "
              "which negative numbers do not have")


def signed_geometric_mean(values_CD: Floats) -> Floats:
    """Root [D] of the absolute product over C columns, with the sign of the product."""
    product_D = np.prod(values_CD, axis=0)
    return np.asarray(np.sign(product_D) * np.abs(product_D) ** (1 / len(values_CD)))


OPERATIONS: dict[str, Callable[[Floats], Floats]] = {
    "mean": lambda values_CD: np.asarray(values_CD.mean(axis=0)),
    "signed_geometric_mean": signed_geometric_mean,
}


def derived(archive: Archive, index: Index, experiment: Experiment, made: list[Entry]) -> list[Entry]:
    """`made` with the derived entries behind each row's own."""
    at = {(one.model, one.row, one.column, one.metric.name): one for one in made}
    more = []
    for spec in experiment.derived:
        for (model, row), site in sites(archive, index, experiment, spec.column, spec.quantity).items():
            more.append(_one(spec, site, [at[model, row, column, spec.of] for column in spec.over]))
    return in_order([*made, *more], experiment)


def _one(spec: Derived, site: Site, parts: list[Entry]) -> Entry:
    missing = [part for part in parts if part.hole or not isinstance(part.value, float)]
    if missing:
        words = {part.hole for part in missing}
        word = next((word for word in (FAILED, NOT_RUN) if word in words), NOT_APPLICABLE)
        return hole(site, spec.quantity, word, f"needs {', '.join(part.column for part in missing)}")
    values = np.array([[part.value] for part in parts], dtype=float)
    operation = OPERATIONS[spec.operation]
    value = float(operation(values)[0])
    sampled = all(part.draws.size for part in parts)
    draws = operation(np.stack([part.draws for part in parts])) if sampled else NO_DRAWS
    low, high = statistics.interval(draws) if draws.size else (value, value)
    negative = int((values < 0).sum())
    note = NOT_A_MEAN.format(count=negative, total=len(parts)) if negative and spec.operation != "mean" else ""
    seeds = tuple(sorted(set.intersection(*(set(part.seeds) for part in parts))))
    return Entry(site.model, site.row, site.column, spec.quantity, site.published, value, draws, low, high,
                 sum(part.n for part in parts), seeds, tuple(run for part in parts for run in part.runs), "",
                 verdict(site.published, value, low, high, len(seeds), site.scale, site.spread), note)


def watched(experiment: Experiment, made: list[Entry]) -> list[Entry]:
    """`made` with a warning at each entry that rises above the untrained row while the metric it watches falls."""
    start = experiment.start
    at = {(one.model, one.row, one.column, one.metric.name): one for one in made}
    if not start:
        return made
    return [_warned(one, start, at) if one.metric.watch and one.row != start else one for one in made]


def _warned(entry: Entry, start: str, at: dict[tuple[str, str, str, str], Entry]) -> Entry:
    name = entry.metric.watch
    gold = at[entry.model, entry.row, entry.column, name]
    before, gold_before = (at.get((entry.model, start, entry.column, one)) for one in (entry.metric.name, name))
    if before is None or gold_before is None or not all(
            one.draws.size for one in (entry, gold, before, gold_before)):
        return entry
    share = probability((_better(entry.metric, entry.draws, before.draws))
                        & (_better(gold.metric, gold_before.draws, gold.draws)))
    if share < SURE:
        return entry
    warning = (f"reward hacking: {entry.metric.name} rises above {start} while {name} falls below it "
               f"(in {100 * share:.0f} % of draws)")
    return entry.warned((warning,))


def _better(metric: Quantity, left_D: Floats, right_D: Floats) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Where the left is the better one; a number that ranks nothing is better when higher."""
    return left_D < right_D if metric.better == "lower" else left_D > right_D
