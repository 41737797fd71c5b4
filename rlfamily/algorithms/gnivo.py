"""Group-normalised implicit value optimisation (GN-IVO, Eq. 9 and Algorithm 1).

    c_it = log pi(y_i,<=t)/pi_old(y_i,<=t)        the implicit value of a prefix, up to a constant
    w_i  = exp(R_i/alpha) / sum_j exp(R_j/alpha)
    L = -E_groups[ mean_t sum_i w_i (c_it - log sum_j exp c_jt) ] + coef * reduction of k(new, ref)

t runs over 1..T of the group (variant sequential), its reasoning steps (step_level), or T alone
(one_step). Without normalisation (Eq. 9) w_i = exp(R_i/alpha), and the minimiser is the policy
pi_old exp(R/alpha)/Z. With it the same holds for one_step only: at t < T the denominator knows the
prefix's own future (Theorem 3.2 wants weights whose scale does not). `batch_norm` divides by the
mean of exp(R/alpha) over the other groups of the batch instead, which does not. Neither may T know
the future: the longest response of the group (t_mode group_max, the paper's padding) does, a little.

Against GRPO: no ratio to clip and no advantage; the whole group is one softmax at every prefix. At
ratio 1, that is at the first update of a batch, dL/dlog pi(y_ij) = -(w_i - 1/K)(T - j)/T (j counted
from 0): REINFORCE with a softmax advantage that fades along the response.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from rlfamily import core
from rlfamily.algorithms import DataSource, LossBatch, LossOutput
from rlfamily.algorithms.settings import AlgorithmSettings, Kl

if TYPE_CHECKING:
    from torch import Tensor

    from rlfamily.core import Prefixes

NEEDS: frozenset[str] = frozenset({"old", "ref", "steps", "generator"})
SOURCE: DataSource = "rollouts"
VERSION = "1"


class Config(AlgorithmSettings):
    """The objective's knobs.

    weights    normalised in the group (what the paper runs), unnormalised (its Eq. 9), or batch_norm
    shift      of unnormalised weights: exp((R - mean of all rewards so far)/alpha), or none (Eq. 9)
    sampled_t  how many t are drawn, once for each group; a group with fewer is taken whole
    t_mode     T is the longest response of the group, or max_length for all: shorter ones stay as they are
    """

    group_size: int = Field(ge=2)
    variant: Literal["sequential", "one_step", "step_level"]
    weights: Literal["normalised", "unnormalised", "batch_norm"]
    shift: Literal["none", "running_mean"]
    sampled_t: int | Literal["all"]
    t_mode: Literal["group_max", "max_new_tokens"]
    max_length: int = Field(gt=0)
    alpha: float = Field(gt=0)
    kl: Kl

    @model_validator(mode="after")
    def _check_t(self) -> Config:
        if self.sampled_t != "all" and self.sampled_t < 1:
            raise ValueError(f"sampled_t={self.sampled_t}: draw at least one, or write all")
        if self.t_mode == "max_new_tokens" and self.variant != "sequential":
            raise ValueError(
                f"t_mode=max_new_tokens is about tokens: variant={self.variant} does not count them"
            )
        return self


def unneeded(config: Config) -> frozenset[str]:
    """The reference serves the KL; steps and chance serve one setting each."""
    draws = config.sampled_t != "all" and config.variant != "one_step"
    used = {"old"} | config.kl.needs | ({"generator"} if draws else set())
    return NEEDS - used - ({"steps"} if config.variant == "step_level" else set())


def loss(batch: LossBatch, config: Config) -> LossOutput:
    """Cross-entropy of the group's weights at its prefixes, plus the KL loss where there is one.

    Rows emptied by mask_truncated keep their weight and a constant log-ratio of 0; a group without
    tokens contributes 0.
    """
    core.check(
        logp_NT=batch.logp_NT,
        mask_NT=batch.mask_NT,
        rewards_N=batch.rewards_N,
        row_weight_N=batch.row_weight_N,
    )
    prefixes = _prefixes(batch, config)
    log_weight_BK, shift = _log_weights(batch, config)
    weight_BK1 = log_weight_BK.exp().unsqueeze(2)
    draws = None if config.sampled_t == "all" else config.sampled_t
    chosen_BQ = core.drawn_counts(prefixes, draws, batch.generator)
    log_share_BKQ = prefixes.log_ratio_BKQ.log_softmax(1)
    cross_entropy_BQ = -(weight_BK1 * log_share_BKQ).sum(1)
    loss_B = (chosen_BQ * cross_entropy_BQ).sum(1) / chosen_BQ.sum(1).clamp(min=1)
    group_weight_B = _group_weights(batch)
    pg_loss = core.expectation_over_rows(loss_B, group_weight_B)
    kl_loss = core.kl_in_loss(
        config.kl, batch.logp_NT, batch.ref_logp_NT, batch.mask_NT, batch.row_weight_N, core.token_mean
    )

    pull_BKQ = weight_BK1.sum(1, keepdim=True) * log_share_BKQ.detach().exp() - weight_BK1
    metrics = {
        "pg_loss": pg_loss,
        "log_ratio_abs": _mean_abs_log_ratio(prefixes, group_weight_B),
        "t_draw_variance": core.draw_variance(pull_BKQ, prefixes, draws, group_weight_B),
        "weight_shift": shift,
        **_weight_metrics(log_weight_BK, group_weight_B),
        **core.kl_metrics(
            batch.logp_NT, batch.mask_NT, batch.old_logp_NT, batch.ref_logp_NT, batch.row_weight_N
        ),
    }
    return LossOutput(pg_loss + kl_loss, core.to_floats(metrics))


def _prefixes(batch: LossBatch, config: Config) -> Prefixes:
    old_logp_NT = core.require(batch.old_logp_NT, "old_logp_NT")
    log_ratio_NT = core.log_ratios(batch.logp_NT, old_logp_NT, batch.mask_NT)
    if config.variant == "one_step":
        return core.whole_prefixes(log_ratio_NT, batch.mask_NT, batch.group_size)
    if config.variant == "step_level":
        ends_NS = core.require(batch.step_ends_NS, "step_ends_NS")
        return core.step_prefixes(log_ratio_NT, batch.mask_NT, ends_NS, batch.group_size)
    max_length = config.max_length if config.t_mode == "max_new_tokens" else None
    return core.token_prefixes(log_ratio_NT, batch.mask_NT, batch.group_size, max_length)


def _log_weights(batch: LossBatch, config: Config) -> tuple[Tensor, Tensor]:
    """log w, (B, K), and the exponent taken out of all of them, a scalar.

    Weights that no fp32 gradient norm could hold are divided by one number for the whole batch,
    which the clipping of the gradient's norm takes out anyway.
    """
    rewards_N = core.penalised_rewards(
        config.kl, batch.rewards_N, batch.old_logp_NT, batch.ref_logp_NT, batch.mask_NT
    )
    log_weight_BK = rewards_N.view(-1, batch.group_size) / config.alpha
    if config.weights == "normalised":
        return log_weight_BK.log_softmax(1), log_weight_BK.new_zeros(())
    running = batch.running_reward / config.alpha
    if config.weights == "batch_norm":
        log_weight_BK = log_weight_BK - _log_mean_of_others(log_weight_BK, _group_weights(batch), running)
    elif config.shift == "running_mean":
        log_weight_BK = log_weight_BK - running
    return core.bounded_exponents(log_weight_BK)


def _log_mean_of_others(
    log_weight_BK: Tensor, group_weight_B: Tensor | None, running: float
) -> Tensor:
    """log of the mean of exp(log_weight) over all rows of the other groups, (B, 1).

    A batch of one group has no others: the rewards before it stand in, independent of it as well.
    """
    if len(log_weight_BK) == 1:
        return log_weight_BK.new_full((1, 1), running)
    log_mean_B = log_weight_BK.logsumexp(1) - math.log(log_weight_BK.shape[1])
    log_share_B = log_mean_B * 0 if group_weight_B is None else group_weight_B.log()
    others_BB = log_share_B.expand(len(log_share_B), -1).clone().fill_diagonal_(-math.inf)
    return ((log_mean_B + others_BB).logsumexp(1) - others_BB.logsumexp(1)).unsqueeze(1)


def _group_weights(batch: LossBatch) -> Tensor | None:
    """The weight that all rows of a group share, (B,)."""
    return None if batch.row_weight_N is None else batch.row_weight_N[:: batch.group_size]


def _mean_abs_log_ratio(prefixes: Prefixes, group_weight_B: Tensor | None) -> Tensor:
    """How far the group is from ratio 1: mean |c| over its positions and members."""
    sum_B = (prefixes.count_BQ * prefixes.log_ratio_BKQ.detach().abs().mean(1)).sum(1)
    return core.expectation_over_rows(sum_B / prefixes.total_B.clamp(min=1), group_weight_B)


def _weight_metrics(log_weight_BK: Tensor, group_weight_B: Tensor | None) -> dict[str, Tensor]:
    """How sharp the weights are within a group, and how far groups differ in scale (nats)."""
    log_scale_B = log_weight_BK.logsumexp(1)
    log_share_BK = log_weight_BK - log_scale_B.unsqueeze(1)
    share_BK = log_share_BK.exp()
    return {
        "weight_entropy": core.expectation_over_rows(-(share_BK * log_share_BK).sum(1), group_weight_B),
        "weight_max": core.expectation_over_rows(share_BK.amax(1), group_weight_B),
        "weight_scale_log_range": log_scale_B.max() - log_scale_B.min(),
    }
