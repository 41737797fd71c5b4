"""The verdict on one printed number: how the reproduced value stands to the published one.

* settings tables: `matches` or `differs`, exactly;
* scale tiny: `not comparable (stand-in)`, because absolute values of stand-in models and data say nothing about the
  paper's; orderings are judged by the claims;
* scale paper: `supported` when the published value, give or take half a unit of its last printed digit and 1.96 of its
  printed standard deviation, lies in our 95 % interval; `contradicted` when it lies outside and at least two seeds
  stand behind the interval (one seed's interval holds no seed noise: `inconclusive`); also `inconclusive` when it
  lies inside an interval wider than the published spread over the rows, which could not tell one row from another.
"""

from __future__ import annotations

import math

from eval.artifacts import Published
from eval.values import half_unit, printed

SUPPORTED = "supported"
CONTRADICTED = "contradicted"
INCONCLUSIVE = "inconclusive"
MATCHES = "matches"
DIFFERS = "differs"
STAND_IN = "not comparable (stand-in)"
NOT_PUBLISHED = "not published"
NOT_CHECKABLE = "not checkable"
NOT_RUN = "not run"
FAILED = "failed"
NOT_APPLICABLE = "not applicable"


def same_setting(published: str, value: float | str) -> bool:
    """True when a setting equals the printed one: as numbers when both are, else as text."""
    try:
        number = printed(published)
        if math.isfinite(number):
            return math.isclose(number, float(value), rel_tol=1e-12)
    except ValueError:
        pass
    return published.strip() == str(value).strip()


def verdict(
    published: Published | None, value: float | str, low: float, high: float, seeds: int, scale: str, spread: float,
    exact: bool = False,
) -> str:
    """Return the verdict word; `spread` is the range of the published values of this metric over the rows."""
    if published is None or not published.value:
        return NOT_PUBLISHED
    if exact:
        return MATCHES if same_setting(published.value, value) else DIFFERS
    if scale == "tiny":
        return STAND_IN
    theirs, std = printed(published.value), printed(published.std) if published.std else 0.0
    if not math.isfinite(theirs):
        return NOT_CHECKABLE
    slack = half_unit(published.value) + (1.96 * std if math.isfinite(std) else 0.0)
    inside = low - slack <= theirs <= high + slack
    if inside:
        return INCONCLUSIVE if high - low > spread else SUPPORTED
    return CONTRADICTED if seeds > 1 else INCONCLUSIVE
