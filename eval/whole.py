"""Numbers that are made of several at once: a BLEU of counts, a length-controlled rate of preferences and lengths.

The field of such a metric holds a list. Suffixes: D bootstrap draws, I items, N numbers of an item.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from eval import length_controlled, statistics
from eval.statistics import SUMMED, Floats
from eval.values import number_of
from rlfamily.quantities import Metric

WHOLE = {*SUMMED, "lc_win_rate"}


def usable(value: Any, metric: Metric) -> bool:
    """A finite number; of counts all of a row; of a length-controlled rate all, but the preference may be null."""
    if metric.reduce not in WHOLE:
        return math.isfinite(number_of(value))
    if not isinstance(value, list) or len(value) not in _sizes(metric):
        return False
    sure = value[1:] if metric.reduce not in SUMMED and value[0] is None else value
    return all(math.isfinite(number_of(one)) for one in sure)


def what(metric: Metric) -> str:
    """How a message calls usable values."""
    if metric.reduce in SUMMED:
        return "counts for a BLEU"
    return "a preference with lengths" if metric.reduce in WHOLE else "finite numbers"


def outcome(value: Any) -> Any:
    """What an item's row says of who won: a field that holds a list begins with it."""
    return value[0] if isinstance(value, list) else value


def per_item(lists: list[list[Any]], metric: Metric) -> Floats:
    """values_IN: counts summed over an item's rows, preferences and lengths averaged."""
    reduce = np.sum if metric.reduce in SUMMED else np.mean
    return np.array([reduce(np.array(one, dtype=float), axis=0) for one in lists], dtype=float)


def draws(values_IN: Floats, counts_DI: Floats, metric: Metric) -> Floats:
    """Bootstrap draws [D] of the number, of items resampled as often as counted."""
    if metric.reduce in SUMMED:
        return metric.times * statistics.bleu(counts_DI @ values_IN, SUMMED[metric.reduce])
    return metric.times * length_controlled.draws(values_IN, counts_DI)


def estimator(values_IN: Floats, metric: Metric) -> str:
    """What a heading must say of how the number was made; "" for an ordinary one."""
    return length_controlled.NAMES[values_IN.shape[1]] if metric.reduce == "lc_win_rate" else ""


def _sizes(metric: Metric) -> tuple[int, ...]:
    return (statistics.BLEU_COUNTS,) if metric.reduce in SUMMED else length_controlled.KNOWN
