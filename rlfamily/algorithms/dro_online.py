"""Direct reward optimisation, online: one value per prompt (Richemond et al. 2024; GN-IVO Eq. 10, App. B and D).

    lr = sum_t log pi/pi_old    R' = R - coef sum_t k(log pi_old - log pi_ref)    v = V(prompt)
    L_value = E[ (v + sg(lr) - R'/alpha)^2 ] / 2
    ppo      A = sg(R'/alpha - v) for every token; token mean of the clipped surrogate of PPO
    direct   L_policy = E[ -sg(R' - alpha v) lr + alpha/2 lr^2 ], the policy's gradient of
             alpha/2 (v + lr - R'/alpha)^2: Eq. 11 with its sign and its missing alpha put right
    printed  L_policy = E[ -sg(R' - v) lr - alpha/2 lr^2 ]: Eq. 11 as printed, which diverges
    L = L_policy + vf_coef L_value

On policy lr = 0, so v learns E[R']/alpha and not the soft value log E[exp(R'/alpha)]. Against PPO: the critic sees the
prompt only, so every token has the same advantage; like PPO's it comes from the value that the batch began with.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rlfamily import core
from rlfamily.algorithms import DataSource, LossBatch, LossOutput
from rlfamily.algorithms.settings import AlgorithmSettings, Kl

NEEDS: frozenset[str] = frozenset({"old", "ref", "value"})
SOURCE: DataSource = "rollouts"
VERSION = "3"


class Config(AlgorithmSettings):
    """`alpha` is the temperature of the soft value; `clip` and `whiten` serve policy_loss=ppo."""

    policy_loss: Literal["ppo", "direct", "printed"]
    alpha: float = Field(gt=0)
    clip: float = Field(gt=0, lt=1)
    vf_coef: float = Field(ge=0)
    whiten: bool
    kl: Kl


def unneeded(config: Config) -> frozenset[str]:
    """The forwards that these settings do not use."""
    return NEEDS - {"old", "value"} - config.kl.needs


def loss(batch: LossBatch, config: Config) -> LossOutput:
    """Policy loss plus value loss. Rows emptied by mask_truncated take no part."""
    core.check_batch(batch)
    mask_NT, weight_N = batch.mask_NT, batch.row_weight_N
    values_NT, old_values_NT = core.critic_values(batch.values_NT, batch.old_values_NT, mask_NT)
    value_N, old_value_N = values_NT[:, 0], old_values_NT[:, 0]
    rewards_N = core.penalised_rewards(config.kl, batch.rewards_N, batch.old_logp_NT, batch.ref_logp_NT, mask_NT)
    log_ratio_NT = core.log_ratios(batch.logp_NT, core.require(batch.old_logp_NT, "old_logp_NT"), mask_NT)
    log_ratio_N = log_ratio_NT.sum(1)
    error_N = value_N + log_ratio_N.detach() - rewards_N / config.alpha
    nonempty_N = core.nonempty_weights(mask_NT, weight_N)
    value_loss = core.expectation_over_rows(error_N.square() / 2, nonempty_N)
    if config.policy_loss == "ppo":
        advantages_NT = (rewards_N / config.alpha - old_value_N)[:, None].expand_as(mask_NT)
        pg_loss, clip_fraction = core.surrogate_loss(
            log_ratio_NT, advantages_NT, mask_NT, weight_N, config.clip, config.whiten
        )
    else:
        loss_N = core.soft_bellman_loss(log_ratio_N, value_N, rewards_N, config.alpha, config.policy_loss)
        pg_loss = core.expectation_over_rows(loss_N, nonempty_N)
        clip_fraction = pg_loss.new_zeros(())
    kl_loss = core.kl_in_loss(config.kl, batch.logp_NT, batch.ref_logp_NT, mask_NT, weight_N, core.token_mean)

    metrics = {
        "pg_loss": pg_loss,
        "value_loss": value_loss,
        "value_mean": core.expectation_over_rows(value_N, nonempty_N),
        "clip_fraction": clip_fraction,
        **core.kl_metrics(batch.logp_NT, mask_NT, batch.old_logp_NT, batch.ref_logp_NT, weight_N),
    }
    return LossOutput(pg_loss + config.vf_coef * value_loss + kl_loss, core.to_floats(metrics))
