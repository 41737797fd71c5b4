"""Group-relative policy optimisation (Shao et al. 2024, arXiv 2402.03300; GN-IVO App. D: TRL's trainer).

    A_i = (R_i - mean of the group) / (standard deviation of the group + 1e-4)
    rho_it = pi(y_it | y_i,<t)/pi_old(y_it | y_i,<t)
    L = reduction of max(-A_i rho_it, -A_i clip(rho_it, 1-c, 1+c)) + coef * reduction of k(new, ref)

Every token of a response has the response's advantage. The standard deviation makes the expected
gradient another one than the policy gradient; without it (scale_rewards none) it is (K-1)/K of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from rlfamily import core
from rlfamily.algorithms import DataSource, LossBatch, LossOutput
from rlfamily.algorithms.settings import AlgorithmSettings, Kl

if TYPE_CHECKING:
    from torch import Tensor

NEEDS: frozenset[str] = frozenset({"old", "ref"})
SOURCE: DataSource = "rollouts"
VERSION = "1"


class Config(AlgorithmSettings):
    """`max_length` serves reduction=fixed_len: every response counts as this many tokens."""

    group_size: int = Field(ge=2)
    scale_rewards: Literal["group", "none"]
    reduction: Literal["token_mean", "seq_mean", "fixed_len"]
    max_length: int = Field(gt=0)
    clip: float = Field(gt=0, lt=1)
    kl: Kl


def unneeded(config: Config) -> frozenset[str]:
    """The reference serves the KL only."""
    return NEEDS - {"old"} - config.kl.needs


def loss(batch: LossBatch, config: Config) -> LossOutput:
    """Clipped policy loss, plus the KL loss where there is one.

    Rows emptied by mask_truncated count in the group's mean and deviation only.
    """
    core.check(
        logp_NT=batch.logp_NT,
        mask_NT=batch.mask_NT,
        rewards_N=batch.rewards_N,
        row_weight_N=batch.row_weight_N,
    )
    old_logp_NT = core.require(batch.old_logp_NT, "old_logp_NT")
    log_ratio_NT = core.log_ratios(batch.logp_NT, old_logp_NT, batch.mask_NT)
    advantage_N = _advantages(batch, config)
    policy_NT, clipped_NT = core.clipped_surrogate(log_ratio_NT, advantage_N[:, None], config.clip)
    pg_loss = _reduced(config, policy_NT, batch.mask_NT, batch.row_weight_N)
    kl_loss = core.kl_in_loss(
        config.kl,
        batch.logp_NT,
        batch.ref_logp_NT,
        batch.mask_NT,
        batch.row_weight_N,
        lambda *terms: _reduced(config, *terms),
    )

    metrics = {
        "pg_loss": pg_loss,
        "advantage_abs": core.expectation_over_rows(
            advantage_N.abs(), core.nonempty_weights(batch.mask_NT, batch.row_weight_N)
        ),
        "clip_fraction": core.token_mean(clipped_NT, batch.mask_NT, batch.row_weight_N),
        **core.kl_metrics(
            batch.logp_NT, batch.mask_NT, old_logp_NT, batch.ref_logp_NT, batch.row_weight_N
        ),
    }
    return LossOutput(pg_loss + kl_loss, core.to_floats(metrics))


def _advantages(batch: LossBatch, config: Config) -> Tensor:
    rewards_N = core.penalised_rewards(
        config.kl, batch.rewards_N, batch.old_logp_NT, batch.ref_logp_NT, batch.mask_NT
    )
    if config.scale_rewards == "none":
        return core.group_center(rewards_N, batch.group_size)
    return core.group_zscore(rewards_N, batch.group_size)


def _reduced(
    config: Config, x_NT: Tensor, mask_NT: Tensor, row_weight_N: Tensor | None
) -> Tensor:
    if config.reduction == "token_mean":
        return core.token_mean(x_NT, mask_NT, row_weight_N)
    if config.reduction == "seq_mean":
        return core.seq_mean_batch_mean(x_NT, mask_NT, row_weight_N)
    return core.fixed_len(x_NT, mask_NT, row_weight_N, config.max_length)
