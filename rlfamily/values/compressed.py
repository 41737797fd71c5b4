"""Several value functions in one (IRO, Eq. 10): every state is fitted to the sum that a search would rank it by.

    L = E_y sum_{h=0..len} (sum_t V_t(x, y_<=h) / beta_t - V(x, y_<=h))^2

Rewards play no part. The minimiser is the sum itself, wherever the responses come from, so that all iterations' may
serve. Against `mc`: the targets are as smooth as the teachers, one for each state.
"""

from __future__ import annotations

from typing import Literal

from rlfamily import core
from rlfamily.algorithms import LossOutput
from rlfamily.values import ValueBatch, ValueConfig

NEEDS: frozenset[str] = frozenset({"teachers"})
VERSION = "1"


class Config(ValueConfig):
    """Nothing to set beside the mean: teachers and their betas are the stage's."""

    kind: Literal["compressed"]


def loss(batch: ValueBatch, config: Config) -> LossOutput:
    """Mean squared error, in squared units of the teachers."""
    core.check_batch(batch)
    values_NS = core.masked(batch.values_NS, batch.mask_NS)
    teacher_NS = core.masked(core.require(batch.teacher_NS, "teacher_NS"), batch.mask_NS)
    error_NS = (values_NS - teacher_NS).square()
    value = core.mean_over_states(error_NS, batch.mask_NS, config.reduction, batch.row_weight_N)
    return LossOutput(value, core.to_floats(core.end_metrics(values_NS, batch.mask_NS, batch.row_weight_N)))
