"""Imitation of the best response of each group (GN-IVO's SFT-winning, App. D; cf. RAFT, RRHF).

    i* = argmax_i R_i, the first of equals
    L = -sum_b sum_t log pi(y_b,i*,t) / sum_b length_b,i* + coef * reduction of k(new, ref)

The KL term is taken on the winners as well: the others are not looked at again. Against SFT: the
demonstrations are the policy's own responses. Against GRPO and GN-IVO: the losers teach nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from rlfamily import core
from rlfamily.algorithms import DataSource, LossBatch, LossOutput
from rlfamily.algorithms.settings import AlgorithmSettings, Kl

if TYPE_CHECKING:
    from torch import Tensor

NEEDS: frozenset[str] = frozenset({"old", "ref"})
SOURCE: DataSource = "rollouts"
VERSION = "2"


class Config(AlgorithmSettings):
    """`skip_ties`: a group of equal rewards has no winner and is left out; else its first response wins."""

    group_size: int = Field(ge=2)
    skip_ties: bool
    kl: Kl


def unneeded(config: Config) -> frozenset[str]:
    """The forwards that these settings do not use."""
    return NEEDS - config.kl.needs


def loss(batch: LossBatch, config: Config) -> LossOutput:
    """Mean negative log-likelihood per token of the winners, plus their KL loss where there is one.

    A winner emptied by mask_truncated teaches nothing, and nobody takes its place; an emptied group takes no part.
    """
    core.check_batch(batch)
    mask_NT, weight_N = batch.mask_NT, batch.row_weight_N
    rewards_N = core.penalised_rewards(config.kl, batch.rewards_N, batch.old_logp_NT, batch.ref_logp_NT, mask_NT)
    rewards_BK = rewards_N.view(-1, batch.group_size)
    tied_B = (rewards_BK == rewards_BK[:, :1]).all(1)
    won_N = _winners(rewards_BK, tied_B if config.skip_ties else None)
    won_weight_N = won_N if weight_N is None else won_N * weight_N
    pg_loss = core.token_mean(-batch.logp_NT, mask_NT, won_weight_N)
    kl_loss = core.kl_in_loss(config.kl, batch.logp_NT, batch.ref_logp_NT, mask_NT, won_weight_N, core.token_mean)

    group_weight_B = core.group_weights(mask_NT, weight_N, batch.group_size)
    metrics = {
        "pg_loss": pg_loss,
        "tie_fraction": core.expectation_over_rows(tied_B.to(pg_loss.dtype), group_weight_B),
        "reward_gain": core.expectation_over_rows(rewards_BK.amax(1) - rewards_BK.mean(1), group_weight_B),
        **core.kl_metrics(batch.logp_NT, mask_NT, batch.old_logp_NT, batch.ref_logp_NT, weight_N),
    }
    return LossOutput(pg_loss + kl_loss, core.to_floats(metrics))


def _winners(rewards_BK: Tensor, skipped_B: Tensor | None) -> Tensor:
    """1 for the first of the best responses of each group, else 0, (N,)."""
    first_B1 = rewards_BK.argmax(1, keepdim=True)  # of equals, the first
    won_BK = rewards_BK.new_zeros(rewards_BK.shape).scatter(1, first_B1, 1.0)
    if skipped_B is not None:
        won_BK = won_BK * ~skipped_B.unsqueeze(1)
    return won_BK.flatten()
