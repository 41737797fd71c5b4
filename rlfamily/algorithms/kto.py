"""Kahneman-Tversky optimisation on responses that are good or bad (Ethayarajh et al. 2024; RPO Eq. 5 to 8).

    rho_i = log pi(y_i)/pi_ref(y_i)    u_i = beta (rho_i - z0)    good: r_i >= threshold
    L = E_i[ w_good (1 - sigmoid(u_i)) where y_i is good, else w_bad (1 - sigmoid(-u_i)) ]
    canonical  rho sums over tokens; z0 = max(0, mean of log pi/pi_ref of each prompt with a response to the next
               prompt), without gradient: a biased, clamped estimate of KL(pi || pi_ref)
    repo       rho is the mean over tokens; z0 is the batch's own mean of rho, neither clamped nor with gradient: what
               the public code of RPO runs as KTO

Against RPO and DRO: of the reward only its side of the threshold counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from rlfamily import core
from rlfamily.algorithms import DataSource, LossBatch, LossOutput
from rlfamily.algorithms.settings import LoggedSettings

if TYPE_CHECKING:
    from torch import Tensor

NEEDS: frozenset[str] = frozenset({"ref", "mismatched"})
SOURCE: DataSource = "logged"
VERSION = "1"


class Config(LoggedSettings):
    """`beta` sharpens; `threshold` is in units of the reward that the loss sees, which is standardised."""

    variant: Literal["canonical", "repo"]
    beta: float = Field(gt=0)
    good_weight: float = Field(ge=0)
    bad_weight: float = Field(ge=0)
    threshold: float


def unneeded(config: Config) -> frozenset[str]:
    """The forwards that these settings do not use."""
    return frozenset({"mismatched"}) if config.variant == "repo" else frozenset()


def loss(batch: LossBatch, config: Config) -> LossOutput:
    """Mean loss of a response. Rows emptied by mask_truncated take no part, in z0 neither."""
    core.check_batch(batch)
    mask_NT, weight_N = batch.mask_NT, core.nonempty_weights(batch.mask_NT, batch.row_weight_N)
    log_ratio_NT = core.log_ratios(batch.logp_NT, core.require(batch.ref_logp_NT, "ref_logp_NT"), mask_NT)
    log_ratio_N = core.aggregate_tokens(log_ratio_NT, mask_NT, "mean" if config.variant == "repo" else "sum")
    reference_point = _reference_point(batch, config, log_ratio_N.detach(), weight_N)
    good_N = (batch.rewards_N >= config.threshold).to(log_ratio_N.dtype)
    side_N = config.good_weight * good_N + config.bad_weight * (1 - good_N)
    margin_N = config.beta * (2 * good_N - 1) * (log_ratio_N - reference_point)
    loss = core.expectation_over_rows(side_N * (-margin_N).sigmoid(), weight_N)

    metrics = {
        "reference_point": reference_point,
        "good": core.expectation_over_rows(good_N, weight_N),
        "log_ratio": core.expectation_over_rows(log_ratio_N, weight_N),
        **core.kl_metrics(batch.logp_NT, mask_NT, batch.old_logp_NT, batch.ref_logp_NT, batch.row_weight_N),
    }
    return LossOutput(loss, core.to_floats(metrics))


def _reference_point(batch: LossBatch, config: Config, log_ratio_N: Tensor, weight_N: Tensor) -> Tensor:
    """z0, a scalar without gradient; 0 where the batch has one prompt, so that there is no other response."""
    if config.variant == "repo":
        return core.expectation_over_rows(log_ratio_N, weight_N)
    if batch.mismatched_logp_NT is None:
        return log_ratio_N.new_zeros(())
    mask_NT = core.require(batch.mismatched_mask_NT, "mismatched_mask_NT")
    ref_logp_NT = core.require(batch.mismatched_ref_logp_NT, "mismatched_ref_logp_NT")
    log_ratio_NT = core.log_ratios(batch.mismatched_logp_NT.detach(), ref_logp_NT, mask_NT)
    return core.expectation_over_rows(log_ratio_NT.sum(1), core.nonempty_weights(mask_NT, weight_N)).clamp(min=0)
