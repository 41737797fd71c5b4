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

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from rlfamily import core
from rlfamily.algorithms import DataSource, LossBatch, LossOutput
from rlfamily.algorithms.settings import AlgorithmSettings, Kl

if TYPE_CHECKING:
    from torch import Tensor

NEEDS: frozenset[str] = frozenset({"old", "ref", "value"})
SOURCE: DataSource = "rollouts"
VERSION = "1"


class Config(AlgorithmSettings):
    """`alpha` is the temperature of the soft value; `clip` and `whiten` serve policy_loss=ppo."""

    policy_loss: Literal["ppo", "direct", "printed"]
    alpha: float = Field(gt=0)
    clip: float = Field(gt=0, lt=1)
    vf_coef: float = Field(ge=0)
    whiten: bool
    kl: Kl


def unneeded(config: Config) -> frozenset[str]:
    """The reference serves the KL only."""
    return frozenset({"ref"}) - config.kl.needs


def loss(batch: LossBatch, config: Config) -> LossOutput:
    """Policy loss plus value loss. Rows emptied by mask_truncated contribute 0."""
    core.check(
        logp_NT=batch.logp_NT,
        mask_NT=batch.mask_NT,
        values_NT=batch.values_NT,
        old_values_NT=batch.old_values_NT,
        rewards_N=batch.rewards_N,
        row_weight_N=batch.row_weight_N,
    )
    mask_NT, weight_N = batch.mask_NT, batch.row_weight_N
    value_N = _first_value(core.require(batch.values_NT, "values_NT"), mask_NT)
    rewards_N = core.penalised_rewards(
        config.kl, batch.rewards_N, batch.old_logp_NT, batch.ref_logp_NT, mask_NT
    )
    old_logp_NT = core.require(batch.old_logp_NT, "old_logp_NT")
    log_ratio_NT = core.log_ratios(batch.logp_NT, old_logp_NT, mask_NT)
    error_N = value_N + log_ratio_NT.sum(1).detach() - rewards_N / config.alpha
    nonempty_N = core.nonempty_weights(mask_NT, None)
    value_loss = core.expectation_over_rows(nonempty_N * error_N.square() / 2, weight_N)
    if config.policy_loss == "ppo":
        pg_loss, clip_fraction = _surrogate(batch, config, rewards_N, log_ratio_NT)
    else:
        pg_loss = _direct(batch, config, rewards_N, log_ratio_NT.sum(1))
        clip_fraction = pg_loss.new_zeros(())
    kl_loss = core.kl_in_loss(
        config.kl, batch.logp_NT, batch.ref_logp_NT, mask_NT, weight_N, core.token_mean
    )

    metrics = {
        "pg_loss": pg_loss,
        "value_loss": value_loss,
        "value_mean": core.expectation_over_rows(
            value_N, core.nonempty_weights(mask_NT, weight_N)
        ),
        "clip_fraction": clip_fraction,
        **core.kl_metrics(batch.logp_NT, mask_NT, old_logp_NT, batch.ref_logp_NT, weight_N),
    }
    total = pg_loss + config.vf_coef * value_loss + kl_loss
    return LossOutput(total, core.to_floats(metrics))


def _surrogate(
    batch: LossBatch, config: Config, rewards_N: Tensor, log_ratio_NT: Tensor
) -> tuple[Tensor, Tensor]:
    """PPO's policy loss with one advantage per response, and the fraction of tokens it clipped."""
    values_NT = batch.values_NT if batch.old_values_NT is None else batch.old_values_NT
    old_value_N = _first_value(core.require(values_NT, "values_NT").detach(), batch.mask_NT)
    advantage_N = rewards_N / config.alpha - old_value_N
    advantages_NT = core.masked(advantage_N[:, None].expand_as(batch.mask_NT), batch.mask_NT)
    if config.whiten:
        advantages_NT = core.whiten(advantages_NT, batch.mask_NT, batch.row_weight_N)
    loss_NT, clipped_NT = core.clipped_surrogate(log_ratio_NT, advantages_NT, config.clip)
    return (
        core.token_mean(loss_NT, batch.mask_NT, batch.row_weight_N),
        core.token_mean(clipped_NT, batch.mask_NT, batch.row_weight_N),
    )


def _direct(batch: LossBatch, config: Config, rewards_N: Tensor, log_ratio_N: Tensor) -> Tensor:
    """The policy's part of the soft Bellman error, or what Eq. 11 prints in its place."""
    value_N = _first_value(core.require(batch.values_NT, "values_NT").detach(), batch.mask_NT)
    right = config.policy_loss == "direct"
    scale, sign = (config.alpha, 1.0) if right else (1.0, -1.0)
    loss_N = (scale * value_N - rewards_N) * log_ratio_N
    loss_N = loss_N + sign * config.alpha / 2 * log_ratio_N.square()
    return core.expectation_over_rows(loss_N, batch.row_weight_N)


def _first_value(values_NT: Tensor, mask_NT: Tensor) -> Tensor:
    """V(prompt), (N,): the state before the first token; 0 for an emptied row."""
    return core.masked(values_NT, mask_NT)[:, 0]
