"""Proximal policy optimisation with a critic per token (Schulman et al. 2017; GN-IVO sec. 4, App. D: TRL's trainer).

    r_t = -coef k(log pi_old - log pi_ref)_t, and R on the last token        all detached
    delta_t = r_t + gamma V_{t+1} - V_t    A_t = delta_t + gamma lam A_{t+1}    ret_t = A_t + V_t
    L_policy = token mean of max(-A rho, -A clip(rho, 1-c, 1+c))    rho_t = pi/pi_old of the token
    L_value  = token mean of max((V - ret)^2, (V_old + clip(V - V_old, -cv, cv) - ret)^2) / 2
    L = L_policy + vf_coef L_value

A and ret are computed from the values that the batch began with and stay while it is reused; A is whitened over the
tokens of the batch when `whiten` is on. Against GRPO: one response per prompt, and a learned value of every state
instead of the group's other rewards.
"""

from __future__ import annotations

import math

from pydantic import Field

from rlfamily import core
from rlfamily.algorithms import DataSource, LossBatch, LossOutput
from rlfamily.algorithms.settings import AlgorithmSettings, Kl

NEEDS: frozenset[str] = frozenset({"old", "ref", "value"})
SOURCE: DataSource = "rollouts"
VERSION = "2"


class Config(AlgorithmSettings):
    """`value_clip` null is the plain squared error; `inner_updates` are PPO's epochs over a batch."""

    clip: float = Field(gt=0, lt=1)
    value_clip: float | None = Field(gt=0)
    vf_coef: float = Field(ge=0)
    gamma: float = Field(ge=0, le=1)
    lam: float = Field(ge=0, le=1)
    whiten: bool
    kl: Kl


def unneeded(config: Config) -> frozenset[str]:
    """The forwards that these settings do not use."""
    return NEEDS - {"old", "value"} - config.kl.needs


def loss(batch: LossBatch, config: Config) -> LossOutput:
    """Clipped policy loss plus clipped value loss, means over all tokens of the batch.

    Rows emptied by mask_truncated take no part.
    """
    core.check_batch(batch)
    mask_NT, weight_N = batch.mask_NT, batch.row_weight_N
    values_NT, old_values_NT = core.critic_values(batch.values_NT, batch.old_values_NT, mask_NT)
    kl_NT = core.kl_in_reward(config.kl, batch.old_logp_NT, batch.ref_logp_NT, mask_NT)
    rewards_NT = core.at_last_token(batch.rewards_N.detach(), mask_NT) - kl_NT
    advantages_NT = core.generalized_advantages(rewards_NT, old_values_NT, mask_NT, config.gamma, config.lam)
    returns_NT = advantages_NT + old_values_NT
    clip = math.inf if config.value_clip is None else config.value_clip
    value_error_NT = core.clipped_value_error(values_NT, old_values_NT, returns_NT, clip)
    value_loss = core.token_mean(value_error_NT, mask_NT, weight_N)
    log_ratio_NT = core.log_ratios(batch.logp_NT, core.require(batch.old_logp_NT, "old_logp_NT"), mask_NT)
    pg_loss, clip_fraction = core.surrogate_loss(
        log_ratio_NT, advantages_NT, mask_NT, weight_N, config.clip, config.whiten
    )
    kl_loss = core.kl_in_loss(config.kl, batch.logp_NT, batch.ref_logp_NT, mask_NT, weight_N, core.token_mean)

    metrics = {
        "pg_loss": pg_loss,
        "value_loss": value_loss,
        "value_mean": core.token_mean(values_NT, mask_NT, weight_N),
        "clip_fraction": clip_fraction,
        **core.kl_metrics(batch.logp_NT, mask_NT, batch.old_logp_NT, batch.ref_logp_NT, weight_N),
    }
    return LossOutput(pg_loss + config.vf_coef * value_loss + kl_loss, core.to_floats(metrics))
