"""Cross-entropy for verifiable rewards (IRO, Eq. 49): the probability that a prefix becomes a right answer.

    L = - E_{y~pi} sum_{h=0..len} r log sigma(V(x, y_<=h)) + (1 - r) log(1 - sigma(V(x, y_<=h)))       r in [0, 1]

V is the logit: sigma(V) is what the paper calls V, and the fixed point is sigma(V) = P(right | prefix). One value
function ranks prefixes alike either way; a sum of several need not. Against `mc`: bounded predictions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from rlfamily import core
from rlfamily.algorithms import LossOutput
from rlfamily.values import ValueBatch, ValueConfig

if TYPE_CHECKING:
    from torch import Tensor

NEEDS: frozenset[str] = frozenset({"outcomes"})
VERSION = "1"


class Config(ValueConfig):
    """Nothing to set beside the mean."""

    kind: Literal["bce"]


def loss(batch: ValueBatch, config: Config) -> LossOutput:
    """Mean cross-entropy, in nats."""
    core.check_batch(batch)
    values_NS = core.masked(batch.values_NS, batch.mask_NS)
    error_NS = core.logit_cross_entropy(values_NS, batch.outcomes_N[:, None])
    value = core.mean_over_states(error_NS, batch.mask_NS, config.reduction, batch.row_weight_N)
    return LossOutput(value, core.to_floats(core.end_metrics(values_NS, batch.mask_NS, batch.row_weight_N)))


def problem(outcomes_N: Tensor, config: Config) -> str:
    """Rewards that are no probabilities."""
    low, high = float(outcomes_N.min()), float(outcomes_N.max())
    fits = low >= 0 and high <= 1
    return "" if fits else f"loss.kind=bce takes rewards in [0, 1], and they go from {low:g} to {high:g}"
