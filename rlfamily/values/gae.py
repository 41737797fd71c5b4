"""Returns from generalized advantages (IRO, App. H.5; Schulman et al. 2016): between `td` and `mc`.

    L = E_{y~pi} sum_{h=0..len} (sg(A_h + V_old(s_h)) - V(s_h))^2
    A_h = delta_h + gamma lam A_{h+1}     delta_h = gamma V_old(s_{h+1}) - V_old(s_h), at the end r - V_old(s_len)

V_old is V at the last refresh, or the present one. With gamma = lam = 1 the target is r and the loss that of `mc`; with
lam = 0 and the present V it is that of `td`; with lam = 1 it does not depend on V_old.
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
    """`gamma`: what a value loses a token; `lam`: how far a target looks ahead before it trusts V_old."""

    kind: Literal["gae"]
    gamma: float = Field(gt=0, le=1)
    lam: float = Field(ge=0, le=1)


def loss(batch: ValueBatch, config: Config) -> LossOutput:
    """Mean squared error, in squared units of the reward."""
    core.check_batch(batch)
    values_NS, old_NS = core.critic_values(batch.values_NS, batch.old_values_NS, batch.mask_NS)
    rewards_NS = core.at_last_token(batch.outcomes_N, batch.mask_NS)
    target_NS = old_NS + core.generalized_advantages(rewards_NS, old_NS, batch.mask_NS, config.gamma, config.lam)
    error_NS = (values_NS - target_NS).square()
    value = core.mean_over_states(error_NS, batch.mask_NS, config.reduction, batch.row_weight_N)
    return LossOutput(value, core.to_floats(core.end_metrics(values_NS, batch.mask_NS, batch.row_weight_N)))
