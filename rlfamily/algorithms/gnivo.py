"""Group-normalised implicit value optimisation (GN-IVO, Eq. 9 and Algorithm 1).

    c_it = log pi(y_i,<=t)/pi_old(y_i,<=t)        the implicit value of a prefix, up to a constant
    w_i  = exp(R_i/alpha) / sum_j exp(R_j/alpha)
    L = -E_groups[ mean_t sum_i w_i (c_it - log sum_j exp c_jt) ] + coef * reduction of k(new, ref)

t runs over 1..T of the group (variant sequential), its reasoning steps (step_level), or T alone (one_step). Without
normalisation (Eq. 9) w_i = exp(R_i/alpha), and the minimiser is the policy pi_old exp(R/alpha)/Z. With it the same
holds for one_step only: at t < T the denominator knows the prefix's own future (Theorem 3.2 wants weights whose scale
does not). `batch_norm` divides by the mean of exp(R/alpha) over the other groups of the batch instead, which does not.
Neither may T know the future: the longest response of the group (t_mode group_max, the paper's padding) does, a little.

Against GRPO: no ratio to clip and no advantage; the whole group is one softmax at every prefix. At ratio 1, that is at
the first update of a batch, dL/dlog pi(y_ij) = -(w_i - 1/K)(T - j)/T (j counted from 0): REINFORCE with a softmax
advantage that fades along the response.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from rlfamily import core
from rlfamily.algorithms import DataSource, LossBatch, LossOutput
from rlfamily.algorithms.settings import AlgorithmSettings, Kl

if TYPE_CHECKING:
    from torch import Tensor

NEEDS: frozenset[str] = frozenset({"old", "ref", "steps", "generator"})
SOURCE: DataSource = "rollouts"
VERSION = "2"


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
            raise ValueError(f"t_mode=max_new_tokens is about tokens: variant={self.variant} does not count them")
        return self


def unneeded(config: Config) -> frozenset[str]:
    """The forwards that these settings do not use."""
    draws = config.sampled_t != "all" and config.variant != "one_step"
    used = config.kl.needs | ({"steps"} if config.variant == "step_level" else set())
    return NEEDS - {"old"} - used - ({"generator"} if draws else set())


def loss(batch: LossBatch, config: Config) -> LossOutput:
    """Policy loss, plus the KL loss where there is one.

    Rows emptied by mask_truncated keep their weight and a log-ratio of 0; a group without tokens takes no part.
    """
    core.check_batch(batch)
    mask_NT, weight_N = batch.mask_NT, batch.row_weight_N
    rewards_N = core.penalised_rewards(config.kl, batch.rewards_N, batch.old_logp_NT, batch.ref_logp_NT, mask_NT)
    log_ratio_NT = core.log_ratios(batch.logp_NT, core.require(batch.old_logp_NT, "old_logp_NT"), mask_NT)
    prefixes = _prefixes(log_ratio_NT, batch, config)
    group_weight_B = core.group_weights(mask_NT, weight_N, batch.group_size)
    log_weight_BK, shift = _log_weights(rewards_N, group_weight_B, batch, config)
    weight_BK1 = log_weight_BK.exp().unsqueeze(2)
    draws = None if config.sampled_t == "all" else config.sampled_t
    chosen_BQ = core.drawn_counts(prefixes, draws, batch.generator)
    log_share_BKQ = prefixes.log_ratio_BKQ.log_softmax(1)
    cross_entropy_BQ = -(weight_BK1 * log_share_BKQ).sum(1)
    loss_B = (chosen_BQ * cross_entropy_BQ).sum(1) / chosen_BQ.sum(1).clamp(min=1)
    pg_loss = core.expectation_over_rows(loss_B, group_weight_B)
    kl_loss = core.kl_in_loss(config.kl, batch.logp_NT, batch.ref_logp_NT, mask_NT, weight_N, core.token_mean)

    pull_BKQ = weight_BK1.sum(1, keepdim=True) * log_share_BKQ.detach().exp() - weight_BK1
    metrics = {
        "pg_loss": pg_loss,
        "log_ratio_abs": core.mean_abs_log_ratio(prefixes, group_weight_B),
        "t_draw_variance": core.draw_variance(pull_BKQ, prefixes, draws, group_weight_B),
        "weight_shift": shift,
        **core.weight_metrics(log_weight_BK, group_weight_B),
        **core.kl_metrics(batch.logp_NT, mask_NT, batch.old_logp_NT, batch.ref_logp_NT, weight_N),
    }
    return LossOutput(pg_loss + kl_loss, core.to_floats(metrics))


def _log_weights(
    rewards_N: Tensor, group_weight_B: Tensor, batch: LossBatch, config: Config
) -> tuple[Tensor, Tensor]:
    """log w, (B, K), less one number for the whole batch where no fp32 gradient norm could hold w, and that number.

    A group of weight 0 repeats one that has some, so that it is neither the largest nor the smallest of the batch.
    """
    log_weight_BK = rewards_N.view(-1, batch.group_size) / config.alpha
    running = batch.running_reward / config.alpha
    if config.weights == "normalised":
        log_weight_BK = log_weight_BK.log_softmax(1)
    elif config.weights == "batch_norm":
        log_weight_BK = log_weight_BK - core.log_mean_of_other_groups(log_weight_BK, group_weight_B, running)
    elif config.shift == "running_mean":
        log_weight_BK = log_weight_BK - running
    log_weight_BK = log_weight_BK.where(group_weight_B[:, None] > 0, log_weight_BK[group_weight_B.argmax()])
    return core.bounded_exponents(log_weight_BK)


def _prefixes(log_ratio_NT: Tensor, batch: LossBatch, config: Config) -> core.Prefixes:
    if config.variant == "one_step":
        return core.whole_prefixes(log_ratio_NT, batch.mask_NT, batch.group_size)
    if config.variant == "step_level":
        ends_NS = core.require(batch.step_ends_NS, "step_ends_NS")
        return core.step_prefixes(log_ratio_NT, batch.mask_NT, ends_NS, batch.group_size)
    max_length = config.max_length if config.t_mode == "max_new_tokens" else None
    return core.token_prefixes(log_ratio_NT, batch.mask_NT, batch.group_size, max_length)
