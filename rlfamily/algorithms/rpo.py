"""Reward partitioning optimisation: regression on the log-ratio, its normaliser from the log (RPO Eq. 19 and 21).

    D_i = log pi(y_i)/pi_ref(y_i)    t_i = (r_i - V(x_i))/tau    L = E_i[ (D_i - t_i)^2 ] / 2

D is a sum over the response's tokens or their mean (`log_ratio`). V is a constant of the prompt's whole logged group,
without gradient, always in log space (`partition`; s_j, m_j: sum and mean of log pi_ref over the tokens of y_j):

    repo             tau log sum_j exp(m_j + r_j/tau)                    the public code
    mass_normalised  tau log [sum_j exp(m_j + r_j/tau) / sum_j exp(m_j)]  without its offset
    mc               tau log mean_j exp(r_j/tau)                          right for y_j ~ pi_ref
    paper_logspace   tau log sum_j exp(s_j + r_j/tau)                     Eq. 19 as printed
    none             0                                                    RPO-noNorm (sec. IV.G)

With the exact V* the minimiser is pi_ref exp((r - V*)/tau). Against DRO: V is computed, not learned.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from rlfamily import core
from rlfamily.algorithms import DataSource, LossBatch, LossOutput
from rlfamily.algorithms.settings import LoggedSettings

if TYPE_CHECKING:
    from torch import Tensor

NEEDS: frozenset[str] = frozenset({"ref"})
SOURCE: DataSource = "logged"
VERSION = "1"

Partition = Literal["repo", "mass_normalised", "mc", "paper_logspace", "none"]
OF_MEANS, OF_SUMS = ("repo", "mass_normalised"), ("paper_logspace",)


class Config(LoggedSettings):
    """`tau` is the temperature of the target policy, in units of the reward."""

    partition: Partition
    log_ratio: Literal["mean", "sum"]
    tau: float = Field(gt=0)

    @model_validator(mode="after")
    def _check_log_ratio(self) -> Config:
        right = "mean" if self.partition in OF_MEANS else "sum" if self.partition in OF_SUMS else self.log_ratio
        if self.log_ratio != right:
            raise ValueError(f"partition={self.partition} weighs responses by the {right} of their log-probs: set "
                             f"algorithm.log_ratio={right}")
        return self


def loss(batch: LossBatch, config: Config) -> LossOutput:
    """Half the mean squared residual. Rows emptied by mask_truncated take no part, in V neither."""
    core.check_batch(batch)
    mask_NT, weight_N = batch.mask_NT, core.nonempty_weights(batch.mask_NT, batch.row_weight_N)
    log_ratio_NT = core.log_ratios(batch.logp_NT, core.require(batch.ref_logp_NT, "ref_logp_NT"), mask_NT)
    log_ratio_N = core.aggregate_tokens(log_ratio_NT, mask_NT, config.log_ratio)
    target_N = targets(batch, config)
    loss = core.expectation_over_rows((log_ratio_N - target_N).square() / 2, weight_N)

    metrics = {
        "target": core.expectation_over_rows(target_N, weight_N),
        "log_ratio": core.expectation_over_rows(log_ratio_N, weight_N),
        **core.kl_metrics(batch.logp_NT, mask_NT, batch.old_logp_NT, batch.ref_logp_NT, batch.row_weight_N),
    }
    return LossOutput(loss, core.to_floats(metrics))


def targets(batch: LossBatch, config: Config) -> Tensor:
    """t of each row, (N,), in nats of a whole response or of a token as `log_ratio` says, without gradient."""
    return batch.rewards_N.detach() / config.tau - scaled_values(batch, config.partition, config.tau)


def scaled_values(batch: LossBatch, partition: Partition, tau: float) -> Tensor:
    """V/tau of each row's prompt, (N,), without gradient; 0 where the prompt's group has no tokens.

    `mc` is a mean over the group's responses, so row weights weigh it; the others are sums over what was logged.
    """
    scaled_N = batch.rewards_N.detach() / tau
    if partition == "none":
        return scaled_N.new_zeros(scaled_N.shape)
    index_N = core.group_index(len(scaled_N), batch.group_size, batch.prompt_index_N, scaled_N.device)
    log_weight_N = log_weights(batch, partition)
    value_B = core.group_logsumexp(log_weight_N + scaled_N, index_N)
    if partition in ("mc", "mass_normalised"):
        value_B = value_B - core.group_logsumexp(log_weight_N, index_N)
    return value_B.nan_to_num(nan=0.0, neginf=0.0)[index_N]


def log_weights(batch: LossBatch, partition: Partition) -> Tensor:
    """log of what each response weighs in its partition beside exp(r/tau), (N,); -inf for one without tokens."""
    mask_NT = batch.mask_NT
    if partition in ("mc", "none"):
        return core.nonempty_weights(mask_NT, batch.row_weight_N).to(batch.rewards_N.dtype).log()
    ref_logp_NT = core.require(batch.ref_logp_NT, "ref_logp_NT").detach()
    mass_N = core.aggregate_tokens(ref_logp_NT, mask_NT, "sum" if partition in OF_SUMS else "mean")
    return mass_N.masked_fill(mask_NT.sum(1) == 0, -math.inf)
