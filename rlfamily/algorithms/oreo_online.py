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
VERSION = "2"


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
    """The forwards that these settings do not use."""
    return NEEDS - {"old", "value"} - config.kl.needs - ({"steps"} if config.level == "step" else set())


def loss(batch: LossBatch, config: Config) -> LossOutput:
    """Policy loss plus value loss. Rows emptied by mask_truncated take no part."""
    core.check_batch(batch)
    mask_NT, weight_N = batch.mask_NT, batch.row_weight_N
    values_NT, old_values_NT = core.critic_values(batch.values_NT, batch.old_values_NT, mask_NT)
    states_NT, first_NT = _states(batch, config)
    rewards_N = core.penalised_rewards(config.kl, batch.rewards_N, batch.old_logp_NT, batch.ref_logp_NT, mask_NT)
    rewards_N1 = rewards_N[:, None]
    log_ratio_NT = core.log_ratios(batch.logp_NT, core.require(batch.old_logp_NT, "old_logp_NT"), mask_NT)
    to_go_NT = core.sums_to_go(log_ratio_NT, mask_NT)
    error_NT = values_NT + to_go_NT.detach() - rewards_N1 / config.alpha
    value_loss = core.token_mean(error_NT.square() / 2, states_NT, weight_N)
    if config.policy_loss == "ppo":
        advantages_NT = rewards_N1 / config.alpha - old_values_NT.gather(1, first_NT)
        pg_loss, clip_fraction = core.surrogate_loss(
            log_ratio_NT, advantages_NT, mask_NT, weight_N, config.clip, config.whiten
        )
    else:
        loss_NT = core.soft_bellman_loss(to_go_NT, values_NT, rewards_N1, config.alpha, config.policy_loss)
        pg_loss = core.token_mean(loss_NT, states_NT, weight_N)
        clip_fraction = pg_loss.new_zeros(())
    kl_loss = core.kl_in_loss(config.kl, batch.logp_NT, batch.ref_logp_NT, mask_NT, weight_N, core.token_mean)

    metrics = {
        "pg_loss": pg_loss,
        "value_loss": value_loss,
        "value_mean": core.token_mean(values_NT, states_NT, weight_N),
        "clip_fraction": clip_fraction,
        **core.kl_metrics(batch.logp_NT, mask_NT, batch.old_logp_NT, batch.ref_logp_NT, weight_N),
    }
    return LossOutput(pg_loss + config.vf_coef * value_loss + kl_loss, core.to_floats(metrics))


def _states(batch: LossBatch, config: Config) -> tuple[Tensor, Tensor]:
    """1 on the tokens whose state has a value, and for each token the index of the state it acts in, both (N, T)."""
    if config.level == "step":
        step_ends_NS = core.require(batch.step_ends_NS, "step_ends_NS")
        return core.step_starts(step_ends_NS, batch.mask_NT)
    return batch.mask_NT, batch.mask_NT.cumsum(1).long().sub(1).clamp(min=0)
