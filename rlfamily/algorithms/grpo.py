"""Group-relative policy optimisation (Shao et al. 2024, arXiv 2402.03300; GN-IVO App. D: TRL's trainer).

    A_i = (R_i - mean of the group)/(its standard deviation + 1e-4)    rho_it = pi(y_it | y_i,<t)/pi_old(y_it | y_i,<t)
    L = reduction of max(-A_i rho_it, -A_i clip(rho_it, 1-c, 1+c)) + coef * reduction of k(new, ref)

Every token of a response has the response's advantage. The standard deviation makes the expected gradient another one
than the policy gradient; without it (scale_rewards none) it is (K-1)/K of it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rlfamily import core
from rlfamily.algorithms import DataSource, LossBatch, LossOutput
from rlfamily.algorithms.settings import AlgorithmSettings, Kl

NEEDS: frozenset[str] = frozenset({"old", "ref"})
SOURCE: DataSource = "rollouts"
VERSION = "3"


class Config(AlgorithmSettings):
    """`max_length` serves reduction=fixed_len: every response counts as this many tokens."""

    group_size: int = Field(ge=2)
    scale_rewards: Literal["group", "none"]
    reduction: Literal["token_mean", "seq_mean", "fixed_len"]
    max_length: int = Field(gt=0)
    clip: float = Field(gt=0, lt=1)
    kl: Kl


def unneeded(config: Config) -> frozenset[str]:
    """The forwards that these settings do not use."""
    return NEEDS - {"old"} - config.kl.needs


def loss(batch: LossBatch, config: Config) -> LossOutput:
    """Policy loss, plus the KL loss where there is one.

    Rows emptied by mask_truncated count in the advantages of the others only.
    """
    core.check_batch(batch)
    mask_NT, weight_N = batch.mask_NT, batch.row_weight_N
    rewards_N = core.penalised_rewards(config.kl, batch.rewards_N, batch.old_logp_NT, batch.ref_logp_NT, mask_NT)
    log_ratio_NT = core.log_ratios(batch.logp_NT, core.require(batch.old_logp_NT, "old_logp_NT"), mask_NT)
    relative = core.group_zscore if config.scale_rewards == "group" else core.group_center
    advantage_N = relative(rewards_N, batch.group_size)
    loss_NT, clipped_NT = core.clipped_surrogate(log_ratio_NT, advantage_N[:, None], config.clip)
    reduction = core.named_reduction(config.reduction, config.max_length)
    pg_loss = reduction(loss_NT, mask_NT, weight_N)
    kl_loss = core.kl_in_loss(config.kl, batch.logp_NT, batch.ref_logp_NT, mask_NT, weight_N, reduction)

    metrics = {
        "pg_loss": pg_loss,
        "advantage_abs": core.expectation_over_rows(advantage_N.abs(), core.nonempty_weights(mask_NT, weight_N)),
        "clip_fraction": core.token_mean(clipped_NT, mask_NT, weight_N),
        **core.kl_metrics(batch.logp_NT, mask_NT, batch.old_logp_NT, batch.ref_logp_NT, weight_N),
    }
    return LossOutput(pg_loss + kl_loss, core.to_floats(metrics))
