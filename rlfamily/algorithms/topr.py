"""Tapered off-policy REINFORCE (Le Roux et al. 2025, arXiv 2503.14286; TOPR report Eq. 5-10).

    rho_i = pi(y_i)/mu(y_i)        s_i = sum_t log pi(y_it)        L = -E_mu[ sg(w_i) A_i s_i ]
    canonical (Eq. 5)  w = 1 if A >= 0 else clip(rho, 0, 1); limits make it clip(rho, a+-, b+-)
    report (Eq. 9)     w = min(tau, rho) for every response, against Eq. 5: positives weigh 1
    tapered            w = 1 if A >= 0 else clip(rho, 0, tau)

tau decays from tau.start to tau.end over training. A is the reward less `baseline_constant` less the baseline, and it
is A's sign that chooses the limits, because A is what multiplies the gradient. Against RLOO: the behaviour policy mu
enters through a detached weight instead of a clipped surrogate, so logged responses can be reused; no KL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from rlfamily import core
from rlfamily.algorithms import DataSource, LossBatch, LossOutput
from rlfamily.algorithms.settings import LeaveOneOutGuard
from rlfamily.settings import Strict

if TYPE_CHECKING:
    from torch import Tensor

NEEDS: frozenset[str] = frozenset({"old"})
SOURCE: DataSource = "rollouts"
VERSION = "2"

Finite = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Interval = Annotated[tuple[Finite, Finite], Field(strict=False)]  # yaml has lists, no tuples


class Limits(Strict):
    """[a+, b+] and [a-, b-]: what the ratio is clipped to, by the sign of the advantage."""

    positive: Interval
    negative: Interval

    @model_validator(mode="after")
    def _check_order(self) -> Limits:
        for name, (low, high) in (("positive", self.positive), ("negative", self.negative)):
            if low > high:
                raise ValueError(f"{name}=[{low}, {high}] is empty: write the lower limit first")
        return self


class Tau(Strict):
    """Upper limit of the ratio over training; used by weights report and tapered."""

    start: float = Field(gt=0, allow_inf_nan=False)
    end: float = Field(gt=0, allow_inf_nan=False)
    schedule: Literal["linear", "cosine", "exp"]


class Config(LeaveOneOutGuard):
    """`limits` serve weights=canonical; `asymmetric: false` applies the negative ones to all."""

    weights: Literal["canonical", "report", "tapered"]
    limits: Limits
    asymmetric: bool
    ratio: Literal["sequence", "token", "length_norm"]
    tau: Tau
    baseline: Literal["none", "loo", "running_mean"]
    baseline_constant: float = Field(allow_inf_nan=False)


def loss(batch: LossBatch, config: Config) -> LossOutput:
    """Weighted REINFORCE loss. Rows emptied by mask_truncated count in the baseline only."""
    core.check_batch(batch)
    mask_NT, weight_N = batch.mask_NT, batch.row_weight_N
    tau = core.scheduled(config.tau.start, config.tau.end, config.tau.schedule, batch.progress)
    advantage_N = _advantages(batch, config)
    weight_NT, clipped_NT = _weights(batch, config, advantage_N, tau)
    nll_NT = -weight_NT * batch.logp_NT
    loss = core.seq_sum_batch_mean(advantage_N[:, None] * nll_NT, mask_NT, weight_N)

    metrics = {
        # Eq. 10 has the raw reward, so this is the loss only where there is no baseline
        "pg_loss": core.seq_sum_batch_mean(batch.rewards_N[:, None] * nll_NT, mask_NT, weight_N),
        "weight_mean": core.seq_mean_batch_mean(weight_NT, mask_NT, weight_N),
        "clip_fraction": core.seq_mean_batch_mean(clipped_NT, mask_NT, weight_N),
        **core.kl_metrics(batch.logp_NT, mask_NT, batch.old_logp_NT, batch.ref_logp_NT, weight_N),
    }
    return LossOutput(loss, {**core.to_floats(metrics), "tau": tau})


def _advantages(batch: LossBatch, config: Config) -> Tensor:
    rewards_N = batch.rewards_N.detach() - config.baseline_constant
    if config.baseline == "loo":
        return core.group_leave_one_out(rewards_N, batch.group_size)
    return rewards_N - batch.running_reward if config.baseline == "running_mean" else rewards_N


def _weights(batch: LossBatch, config: Config, advantage_N: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """Detached weights (one value along a row unless ratio=token), and 1 where a limit bit."""
    log_ratio_NT = _log_ratios(batch, config)
    limits_by_sign = log_ratio_NT.new_tensor(_limits(config, tau))
    low_N1, high_N1 = limits_by_sign[(advantage_N[:, None] < 0).long()].unbind(-1)
    outside_NT = (log_ratio_NT < low_N1.log()) | (log_ratio_NT > high_N1.log())
    clipped_NT = outside_NT & (low_N1 < high_N1)  # a constant weight, a = b, is no clip
    return core.clipped_exp(log_ratio_NT, low_N1, high_N1), clipped_NT.to(log_ratio_NT.dtype)


def _limits(config: Config, tau: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """(a+, b+) and (a-, b-): all three weightings are members of one family."""
    positive, negative = {
        "canonical": (config.limits.positive, config.limits.negative),
        "report": ((0.0, tau), (0.0, tau)),
        "tapered": ((1.0, 1.0), (0.0, tau)),
    }[config.weights]
    return (positive if config.asymmetric else negative), negative


def _log_ratios(batch: LossBatch, config: Config) -> Tensor:
    """Detached log pi/mu, (N, T): of the token, its whole response, or that over its length."""
    old_logp_NT = core.require(batch.old_logp_NT, "old_logp_NT")
    log_ratio_NT = core.log_ratios(batch.logp_NT.detach(), old_logp_NT, batch.mask_NT)
    if config.ratio == "token":
        return log_ratio_NT
    if config.ratio == "sequence":
        log_ratio_N = core.sum_over_tokens(log_ratio_NT, batch.mask_NT)
    else:
        log_ratio_N = core.mean_over_row_tokens(log_ratio_NT, batch.mask_NT)
    return log_ratio_N[:, None].expand_as(log_ratio_NT)
