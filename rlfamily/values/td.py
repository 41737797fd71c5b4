"""Temporal differences (IRO, Eq. 50): a state is fitted to the value of the next one, the complete response to r.

    L = E_{y~pi} sum_{h<len} (sg(gamma V(s_{h+1})) - V(s_h))^2 + (r - V(s_len))^2          sg: stop-gradient

The next value is a target without gradient; its fixed point at gamma = 1 is then V^pi. With gradient through both
terms, as Eq. 50 reads, the minimiser is another function; without r at the end every constant V has no error. The
paper's table has a row "TD lambda = .99", a number that Eq. 50 does not have: it is read as gamma, and as lambda it is
`gae` with gamma 1.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rlfamily import core
from rlfamily.algorithms import LossOutput
from rlfamily.values import ValueBatch, ValueConfig

NEEDS: frozenset[str] = frozenset({"outcomes"})
VERSION = "1"


class Config(ValueConfig):
    """`gamma`: what a value loses a token."""

    kind: Literal["td"]
    gamma: float = Field(gt=0, le=1)


def loss(batch: ValueBatch, config: Config) -> LossOutput:
    """Mean squared difference, in squared units of the reward."""
    core.check_batch(batch)
    values_NS = core.masked(batch.values_NS, batch.mask_NS)
    target_NS = core.following(config.gamma * values_NS.detach(), batch.mask_NS, batch.outcomes_N)
    error_NS = (values_NS - target_NS).square()
    value = core.mean_over_states(error_NS, batch.mask_NS, config.reduction, batch.row_weight_N)
    return LossOutput(value, core.to_floats(core.end_metrics(values_NS, batch.mask_NS, batch.row_weight_N)))
