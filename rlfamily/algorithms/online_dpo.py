"""Direct preference optimisation on pairs of the policy's own responses (Guo et al. 2024, arXiv 2402.04792;
GN-IVO App. D).

    i* = argmax_i R_i of the two, the first of equals    u_i = sum_t log pi(y_it)/pi_dpo(y_it)
    L = -E_pairs[ log sigmoid(alpha (u_winner - u_loser)) ] + coef * reduction of k(new, ref)

pi_dpo is the initial policy (TRL) or the one that drew the pair (dpo_ref old: then u is 0 at the first update of a
batch). With the reward's order as a hard label the loss has no finite minimiser: the separate KL, to the initial
policy, is the anchor. Against DPO: the pairs are new at every step.
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
VERSION = "2"


class Config(AlgorithmSettings):
    """`skip_ties`: two equal rewards make no pair; else the first response wins."""

    group_size: Literal[2]
    alpha: float = Field(gt=0)
    dpo_ref: Literal["init", "old"]
    skip_ties: bool
    kl: Kl


def unneeded(config: Config) -> frozenset[str]:
    """The forwards that these settings do not use."""
    return NEEDS - {"ref" if config.dpo_ref == "init" else "old"} - config.kl.needs


def loss(batch: LossBatch, config: Config) -> LossOutput:
    """Mean over pairs, plus the KL loss of both responses where there is one.

    A pair with a response emptied by mask_truncated is left out; a tie that is skipped counts as a pair without loss.
    """
    core.check_batch(batch)
    mask_NT, weight_N = batch.mask_NT, batch.row_weight_N
    rewards_N = core.penalised_rewards(config.kl, batch.rewards_N, batch.old_logp_NT, batch.ref_logp_NT, mask_NT)
    reward_gap_B = core.pair_differences(rewards_N, batch.group_size)
    tied_B, sign_B = reward_gap_B == 0, 1 - 2 * (reward_gap_B < 0).to(batch.logp_NT.dtype)
    log_ratio_N = core.log_ratios(batch.logp_NT, _dpo_logp(batch, config), mask_NT).sum(1)
    gap_B = sign_B * core.pair_differences(log_ratio_N, batch.group_size)
    weight_B = core.whole_pair_weights(mask_NT, weight_N)
    used_weight_B = weight_B * ~tied_B if config.skip_ties else weight_B
    nll_B = core.bradley_terry_nll(config.alpha * gap_B)
    pg_loss = core.expectation_over_rows(nll_B * ~tied_B if config.skip_ties else nll_B, weight_B)
    kl_loss = core.kl_in_loss(config.kl, batch.logp_NT, batch.ref_logp_NT, mask_NT, weight_N, core.token_mean)

    metrics = {
        "pg_loss": pg_loss,
        "margin": core.expectation_over_rows(config.alpha * gap_B, used_weight_B),
        "log_ratio_gap": core.expectation_over_rows(gap_B.abs(), used_weight_B),
        "accuracy": core.expectation_over_rows((gap_B > 0).to(gap_B.dtype), used_weight_B),
        "tie_fraction": core.expectation_over_rows(tied_B.to(gap_B.dtype), weight_B),
        **core.kl_metrics(batch.logp_NT, mask_NT, batch.old_logp_NT, batch.ref_logp_NT, weight_N),
    }
    return LossOutput(pg_loss + kl_loss, core.to_floats(metrics))


def _dpo_logp(batch: LossBatch, config: Config) -> Tensor:
    if config.dpo_ref == "init":
        return core.require(batch.ref_logp_NT, "ref_logp_NT")
    return core.require(batch.old_logp_NT, "old_logp_NT")
