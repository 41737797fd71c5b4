"""Future discriminators (FUDGE, Yang & Klein 2021): the probability that a prefix ends as a response with an attribute.

    L = - E_{y~pi} sum_{h=0..len} a log sigma(V(x, y_<=h)) + (1 - a) log(1 - sigma(V(x, y_<=h)))

a = 1 where r is above the threshold, else 0. V is the logit, and the fixed point sigma(V) = P(a | prefix). IRO calls
its Eq. 7 "FUDGE loss" too, which is `mc`.
Against `bce`: any reward will do, of which the threshold makes an attribute.
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
    """`threshold`: rewards above it are the attribute; null: rewards are 0 or 1 already."""

    kind: Literal["fudge"]
    threshold: float | None


def loss(batch: ValueBatch, config: Config) -> LossOutput:
    """Mean cross-entropy, in nats."""
    core.check_batch(batch)
    values_NS = core.masked(batch.values_NS, batch.mask_NS)
    error_NS = core.logit_cross_entropy(values_NS, _attribute(batch.outcomes_N, config)[:, None])
    value = core.mean_over_states(error_NS, batch.mask_NS, config.reduction, batch.row_weight_N)
    return LossOutput(value, core.to_floats(core.end_metrics(values_NS, batch.mask_NS, batch.row_weight_N)))


def problem(outcomes_N: Tensor, config: Config) -> str:
    """Rewards that are no attribute, or of which all have it or none."""
    found_N = _attribute(outcomes_N, config)
    if bool(((found_N != 0) & (found_N != 1)).any()):
        return "loss.kind=fudge takes rewards of 0 or 1, and others are among them: set loss.threshold"
    if bool((found_N == found_N[0]).all()):
        found = "all are" if found_N[0] else "none is"
        return f"of {len(found_N)} rewards {found} above loss.threshold={config.threshold}"
    return ""


def _attribute(outcomes_N: Tensor, config: Config) -> Tensor:
    """1 where a response has the attribute, else 0."""
    return outcomes_N if config.threshold is None else (outcomes_N > config.threshold).to(outcomes_N.dtype)
