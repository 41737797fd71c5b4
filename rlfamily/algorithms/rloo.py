"""REINFORCE with a leave-one-out baseline (Ahmadian et al. 2024; TOPR report Eq. 2).

    A_i = R_i - mean of the other K-1 rewards        s_i = sum_t log pi(y_it)        rho_i = pi(y_i)/pi_old(y_i)
    ratio none       L = -E[ A_i s_i ]
    ratio sequence   L = -E[ min(rho_i A_i, clip(rho_i, 1-c, 1+c) A_i) ]

plus an optional KL to the initial policy, in the reward (R_i - coef * sum_t k(old, ref), before the baseline) or in the
loss (+ coef * E[sum_t k(new, ref)]). A response is one action: sums over tokens, EOS included, mean over responses.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rlfamily import core
from rlfamily.algorithms import DataSource, LossBatch, LossOutput
from rlfamily.algorithms.settings import Kl, LeaveOneOutGuard

NEEDS: frozenset[str] = frozenset({"old", "ref"})
SOURCE: DataSource = "rollouts"
VERSION = "2"


class Config(LeaveOneOutGuard):
    """`clip` serves ratio=sequence, which differs from none only when a batch is reused."""

    ratio: Literal["none", "sequence"]
    clip: float = Field(gt=0, lt=1)
    kl: Kl


def unneeded(config: Config) -> frozenset[str]:
    """The forwards that these settings do not use."""
    return NEEDS - ({"old"} if config.ratio == "sequence" else set()) - config.kl.needs


def loss(batch: LossBatch, config: Config) -> LossOutput:
    """Policy loss, plus the KL loss where there is one.

    Rows emptied by mask_truncated count in the advantages of the others only.
    """
    core.check_batch(batch)
    mask_NT, weight_N = batch.mask_NT, batch.row_weight_N
    rewards_N = core.penalised_rewards(config.kl, batch.rewards_N, batch.old_logp_NT, batch.ref_logp_NT, mask_NT)
    advantage_N = core.group_leave_one_out(rewards_N, batch.group_size)
    if config.ratio == "none":
        objective_N = advantage_N * core.sequence_logprobs(batch.logp_NT, mask_NT)
        clipped_N = advantage_N.new_zeros(len(advantage_N))
    else:
        log_ratio_NT = core.log_ratios(batch.logp_NT, core.require(batch.old_logp_NT, "old_logp_NT"), mask_NT)
        loss_N, clipped_N = core.clipped_surrogate(log_ratio_NT.sum(1), advantage_N, config.clip)
        objective_N = -loss_N
    nonempty_N = core.nonempty_weights(mask_NT, weight_N)
    pg_loss = -core.expectation_over_rows(objective_N, nonempty_N)
    kl_loss = core.kl_in_loss(config.kl, batch.logp_NT, batch.ref_logp_NT, mask_NT, weight_N, core.seq_sum_batch_mean)

    metrics = {
        "pg_loss": pg_loss,
        "clip_fraction": core.expectation_over_rows(clipped_N, nonempty_N),
        **core.kl_metrics(batch.logp_NT, mask_NT, batch.old_logp_NT, batch.ref_logp_NT, weight_N),
    }
    return LossOutput(pg_loss + kl_loss, core.to_floats(metrics))
