"""Offline reasoning optimisation on logged responses: a value per state (Wang et al. 2025).

    lr_t = log pi(y_t)/pi_ref(y_t)    to_go_t = sum_{i>=t} lr_i    V_t = V(x, y_<t)
    L_value  = mean over states of (V_t + beta sg(to_go_t) - r)^2
    L_policy = mean over states of (sg V_t + beta (own_t + sg(to_go_t - own_t)) - r)^2
    L = L_policy + L_value + coef E_t[ k(lr_t) ]

level token: every token is a state and own_t = lr_t. level step: the first token of each reasoning step is, and own_t
is the sum of lr over that step; what follows carries no gradient in either. Fixed point on logged responses of any
full-support policy, with coef = 0: pi_ref exp((r - V*)/beta) and V_t its soft value after t tokens. Against DRO: a
value per state, not per prompt. The public code averages within a response first; here every state counts alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from rlfamily import core
from rlfamily.algorithms import DataSource, LossBatch, LossOutput
from rlfamily.algorithms.settings import Kl, ValueSettings

if TYPE_CHECKING:
    from torch import Tensor

NEEDS: frozenset[str] = frozenset({"ref", "value", "steps"})
SOURCE: DataSource = "logged"
VERSION = "1"


class Config(ValueSettings):
    """`beta` is the temperature of the target policy, in units of the reward."""

    level: Literal["token", "step"]
    beta: float = Field(gt=0)
    kl: Kl

    @model_validator(mode="after")
    def _check_kl(self) -> Config:
        if self.kl.place == "reward":
            raise ValueError("the reward of logged responses has no place for a KL: set algorithm.kl.place=loss")
        return self


def unneeded(config: Config) -> frozenset[str]:
    """The forwards that these settings do not use."""
    return frozenset({"steps"}) if config.level == "token" else frozenset()


def loss(batch: LossBatch, config: Config) -> LossOutput:
    """Policy loss plus value loss. Rows emptied by mask_truncated take no part."""
    core.check_batch(batch)
    mask_NT, weight_N = batch.mask_NT, batch.row_weight_N
    values_NT = core.masked(core.require(batch.values_NT, "values_NT"), mask_NT)
    log_ratio_NT = core.log_ratios(batch.logp_NT, core.require(batch.ref_logp_NT, "ref_logp_NT"), mask_NT)
    states_NT, own_NT = _states(batch, config, log_ratio_NT)
    to_go_NT, rewards_N1 = core.sums_to_go(log_ratio_NT, mask_NT).detach(), batch.rewards_N.detach()[:, None]
    value_error_NT = values_NT + config.beta * to_go_NT - rewards_N1
    policy_error_NT = values_NT.detach() + config.beta * (to_go_NT + own_NT - own_NT.detach()) - rewards_N1
    value_loss = core.token_mean(value_error_NT.square(), states_NT, weight_N)
    pg_loss = core.token_mean(policy_error_NT.square(), states_NT, weight_N)
    kl_loss = core.kl_in_loss(config.kl, batch.logp_NT, batch.ref_logp_NT, mask_NT, weight_N, core.token_mean)

    metrics = {
        "pg_loss": pg_loss,
        "value_loss": value_loss,
        "value_mean": core.token_mean(values_NT, states_NT, weight_N),
        **core.kl_metrics(batch.logp_NT, mask_NT, batch.old_logp_NT, batch.ref_logp_NT, weight_N),
    }
    return LossOutput(pg_loss + value_loss + kl_loss, core.to_floats(metrics))


def _states(batch: LossBatch, config: Config, log_ratio_NT: Tensor) -> tuple[Tensor, Tensor]:
    """1 on the tokens whose state has a value, and the log-ratio of what is done in that state, both (N, T)."""
    if config.level == "token":
        return batch.mask_NT, log_ratio_NT
    step_ends_NS = core.require(batch.step_ends_NS, "step_ends_NS")
    starts_NT, first_NT = core.step_starts(step_ends_NS, batch.mask_NT)
    own_NT = log_ratio_NT.new_zeros(log_ratio_NT.shape).scatter_add(1, first_NT, log_ratio_NT)
    return starts_NT, core.masked(own_NT, starts_NT)
