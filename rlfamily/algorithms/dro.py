"""Direct reward optimisation on logged responses: policy and value, one regression (Richemond et al. 2024; RPO Eq. 14).

    D_i = log pi(y_i)/pi_ref(y_i)    e_i = r_i - V(x_i) - tau D_i
    joint     L = E_i[ e_i^2 ] / 2, into policy and value; D is a sum over the response's tokens
    separate  L = E_i[ -(r_i - sg V) log pi(y_i) + tau/2 D_i^2 ] + E_i[ (V - sg(r_i - tau D_i))^2 ] / 2: the original,
              whose policy gradient is 1/tau times that of joint
    repo      joint with the mean of the token log-ratios as D: what the public code of RPO runs as DRO

The minimiser is pi_ref exp((r - V*)/tau) with V = V*, whatever policy the log came from. Against RPO: V is learned.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rlfamily import core
from rlfamily.algorithms import DataSource, LossBatch, LossOutput
from rlfamily.algorithms.settings import ValueSettings

NEEDS: frozenset[str] = frozenset({"ref", "prompt_value"})
SOURCE: DataSource = "logged"
VERSION = "1"


class Config(ValueSettings):
    """`tau` is the temperature of the target policy, in units of the reward."""

    variant: Literal["joint", "separate", "repo"]
    tau: float = Field(gt=0)


def loss(batch: LossBatch, config: Config) -> LossOutput:
    """Half the mean squared residual, or policy loss plus value loss. Rows emptied by mask_truncated take no part."""
    core.check_batch(batch)
    mask_NT, weight_N = batch.mask_NT, core.nonempty_weights(batch.mask_NT, batch.row_weight_N)
    log_ratio_NT = core.log_ratios(batch.logp_NT, core.require(batch.ref_logp_NT, "ref_logp_NT"), mask_NT)
    log_ratio_N = core.aggregate_tokens(log_ratio_NT, mask_NT, "mean" if config.variant == "repo" else "sum")
    value_N, rewards_N = core.require(batch.prompt_values_N, "prompt_values_N"), batch.rewards_N.detach()
    residual_N = rewards_N - value_N - config.tau * log_ratio_N
    squared_N = residual_N.square() / 2
    if config.variant == "separate":
        apart_N = (value_N - (rewards_N - config.tau * log_ratio_N.detach())).square() / 2
        advantage_N = rewards_N - value_N.detach()
        logp_N = core.sum_over_tokens(batch.logp_NT, mask_NT)
        loss_N = -advantage_N * logp_N + config.tau / 2 * log_ratio_N.square() + apart_N
    else:
        loss_N = squared_N
    loss = core.expectation_over_rows(loss_N, weight_N)

    metrics = {
        "squared_residual": core.expectation_over_rows(squared_N, weight_N),
        "value_mean": core.expectation_over_rows(value_N, weight_N),
        "log_ratio": core.expectation_over_rows(log_ratio_N, weight_N),
        **core.kl_metrics(batch.logp_NT, mask_NT, batch.old_logp_NT, batch.ref_logp_NT, batch.row_weight_N),
    }
    return LossOutput(loss, core.to_floats(metrics))
