"""Offline reasoning optimisation, online: a value per token or step (Wang et al. 2025; GN-IVO Eq. 12, App. B and D).

    lr_t = sum_{i>=t} log pi/pi_old of token i    R' = R - coef sum_t k(log pi_old - log pi_ref)
    L_value = mean over states of (V_t + sg(lr_t) - R'/alpha)^2 / 2
    ppo      A_t = sg(R'/alpha - V_t); token mean of the clipped surrogate of PPO
    direct   L_policy = mean over states of -sg(R' - alpha V_t) lr_t + alpha/2 lr_t^2, the policy's
             gradient of alpha/2 (V_t + lr_t - R'/alpha)^2: Eq. 13, its sign and alpha put right
    printed  L_policy = mean over states of -sg(R' - V_t) lr_t - alpha/2 lr_t^2: Eq. 13 as printed
    L = L_policy + vf_coef L_value

level token: every token is a state. level step: the first token of each reasoning step is, and the tokens of a step
share its advantage. On policy lr = 0, so V_t learns E[R' | state]/alpha: against PPO the critic is Monte-Carlo
(gamma = lam = 1) and R' counts the whole response's KL; against DRO there is a value per state, not per prompt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from rlfamily import core
from rlfamily.algorithms import DataSource, LossBatch, LossOutput
from rlfamily.algorithms.settings import AlgorithmSettings, Kl

if TYPE_CHECKING:
    from torch import Tensor

NEEDS: frozenset[str] = frozenset({"old", "ref", "value", "steps"})
SOURCE: DataSource = "rollouts"
VERSION = "1"


class Config(AlgorithmSettings):
    """`alpha` is the temperature of the soft value; `clip` and `whiten` serve policy_loss=ppo."""

    level: Literal["token", "step"]
    policy_loss: Literal["ppo", "direct", "printed"]
    alpha: float = Field(gt=0)
    clip: float = Field(gt=0, lt=1)
    vf_coef: float = Field(ge=0)
    whiten: bool
    kl: Kl


def unneeded(config: Config) -> frozenset[str]:
    """The reference serves the KL only, step ends level=step only."""
    used = config.kl.needs | ({"steps"} if config.level == "step" else set())
    return frozenset({"ref", "steps"}) - used


def loss(batch: LossBatch, config: Config) -> LossOutput:
    """Policy loss plus value loss. Rows emptied by mask_truncated take no part."""
    core.check(
        logp_NT=batch.logp_NT,
        mask_NT=batch.mask_NT,
        values_NT=batch.values_NT,
        old_values_NT=batch.old_values_NT,
        rewards_N=batch.rewards_N,
        row_weight_N=batch.row_weight_N,
    )
    mask_NT, weight_N = batch.mask_NT, batch.row_weight_N
    values_NT = core.masked(core.require(batch.values_NT, "values_NT"), mask_NT)
    states_NT, first_NT = _states(batch, config)
    rewards_N1 = core.penalised_rewards(
        config.kl, batch.rewards_N, batch.old_logp_NT, batch.ref_logp_NT, mask_NT
    )[:, None]
    old_logp_NT = core.require(batch.old_logp_NT, "old_logp_NT")
    log_ratio_NT = core.log_ratios(batch.logp_NT, old_logp_NT, mask_NT)
    to_go_NT = core.sums_to_go(log_ratio_NT, mask_NT)
    error_NT = values_NT + to_go_NT.detach() - rewards_N1 / config.alpha
    value_loss = core.token_mean(error_NT.square() / 2, states_NT, weight_N)
    if config.policy_loss == "ppo":
        old_values_NT = values_NT if batch.old_values_NT is None else batch.old_values_NT
        own_values_NT = core.masked(old_values_NT.detach(), mask_NT).gather(1, first_NT)
        advantages_NT = rewards_N1 / config.alpha - own_values_NT
        pg_loss, clip_fraction = _surrogate(batch, config, advantages_NT, log_ratio_NT)
    else:
        direct_NT = _direct(config, values_NT.detach(), rewards_N1, to_go_NT)
        pg_loss = core.token_mean(direct_NT, states_NT, weight_N)
        clip_fraction = pg_loss.new_zeros(())
    kl_loss = core.kl_in_loss(
        config.kl, batch.logp_NT, batch.ref_logp_NT, mask_NT, weight_N, core.token_mean
    )

    metrics = {
        "pg_loss": pg_loss,
        "value_loss": value_loss,
        "value_mean": core.token_mean(values_NT, states_NT, weight_N),
        "clip_fraction": clip_fraction,
        **core.kl_metrics(batch.logp_NT, mask_NT, old_logp_NT, batch.ref_logp_NT, weight_N),
    }
    total = pg_loss + config.vf_coef * value_loss + kl_loss
    return LossOutput(total, core.to_floats(metrics))


def _states(batch: LossBatch, config: Config) -> tuple[Tensor, Tensor]:
    """1 on the tokens whose state has a value, and for each token the index of the state it acts in, both (N, T)."""
    if config.level == "step":
        step_ends_NS = core.require(batch.step_ends_NS, "step_ends_NS")
        return core.step_starts(step_ends_NS, batch.mask_NT)
    return batch.mask_NT, batch.mask_NT.cumsum(1).long().sub(1).clamp(min=0)


def _surrogate(
    batch: LossBatch, config: Config, advantages_NT: Tensor, log_ratio_NT: Tensor
) -> tuple[Tensor, Tensor]:
    """PPO's policy loss, and the fraction of tokens it clipped."""
    if config.whiten:
        advantages_NT = core.whiten(advantages_NT, batch.mask_NT, batch.row_weight_N)
    loss_NT, clipped_NT = core.clipped_surrogate(log_ratio_NT, advantages_NT, config.clip)
    return (
        core.token_mean(loss_NT, batch.mask_NT, batch.row_weight_N),
        core.token_mean(clipped_NT, batch.mask_NT, batch.row_weight_N),
    )


def _direct(config: Config, values_NT: Tensor, rewards_N1: Tensor, to_go_NT: Tensor) -> Tensor:
    """The policy's part of the soft Bellman error of each state, or what Eq. 13 prints in its place."""
    right = config.policy_loss == "direct"
    scale, sign = (config.alpha, 1.0) if right else (1.0, -1.0)
    slope_NT = (scale * values_NT - rewards_N1) * to_go_NT
    return slope_NT + sign * config.alpha / 2 * to_go_NT.square()
