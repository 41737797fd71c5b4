"""Monte-Carlo regression (IRO, Eq. 7): every prefix of a response is fitted to the reward that the response got.

    L = E_{y~pi} sum_{h=0..len} (V(x, y_<=h) - r(x, y))^2

Its fixed point is V^pi: the mean reward of the responses that pi makes of a prefix. Eq. 7 as printed stops before the
last token; the complete response is a state here, as the search ranks finished candidates by V too. Against `td`: no
target comes from V itself, so that nothing is biased, and the variance is that of whole responses.
"""

from __future__ import annotations

from typing import Literal

from rlfamily import core
from rlfamily.algorithms import LossOutput
from rlfamily.values import ValueBatch, ValueConfig

NEEDS: frozenset[str] = frozenset({"outcomes"})
VERSION = "1"


class Config(ValueConfig):
    """Nothing to set beside the mean."""

    kind: Literal["mc"]


def loss(batch: ValueBatch, config: Config) -> LossOutput:
    """Mean squared error, in squared units of the reward."""
    core.check_batch(batch)
    values_NS = core.masked(batch.values_NS, batch.mask_NS)
    error_NS = (values_NS - batch.outcomes_N[:, None]).square()
    value = core.mean_over_states(error_NS, batch.mask_NS, config.reduction, batch.row_weight_N)
    return LossOutput(value, core.to_floats(core.end_metrics(values_NS, batch.mask_NS, batch.row_weight_N)))
