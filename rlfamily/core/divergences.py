"""Single-sample estimators of KL(pi || other), from d = log pi(y) - log pi_other(y), y ~ pi
(Schulman, "Approximating KL").

Where the term is placed decides what it does: k1 in the loss has zero expected gradient; k1 in the detached reward and
k2 in the loss descend the reverse KL(pi || other); k3 in the loss descends the forward KL(other || pi).
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

from rlfamily.core.ratios import bounded_exp, log_ratios
from rlfamily.core.reductions import Reduction
from rlfamily.core.shapes import require

Form = Literal["k1", "k2", "k3"]


class Pull(Protocol):
    """What the settings of a KL to the initial policy say."""

    @property
    def coef(self) -> float:
        """Weight; 0 asks for no reference policy."""
        ...

    @property
    def form(self) -> Form:
        """Estimator."""
        ...

    @property
    def place(self) -> Literal["loss", "reward"]:
        """Where the term stands."""
        ...


def kl_per_token(log_ratio: Tensor, form: Form) -> Tensor:
    """k1 = d, k2 = d^2/2 or k3 = exp(-d) - 1 + d, elementwise; a pad (d = 0) gives 0."""
    if form == "k1":
        return log_ratio
    if form == "k2":
        return log_ratio.square() / 2
    return bounded_exp(-log_ratio) - 1 + log_ratio


def kl_in_loss(
    pull: Pull,
    logp_NT: Tensor,
    ref_logp_NT: Tensor | None,
    mask_NT: Tensor,
    row_weight_N: Tensor | None,
    reduction: Reduction,
) -> Tensor:
    """coef * reduction of k(log pi - log ref), a scalar that carries gradient; 0 where the pull is in the reward.

    `reduction` is `seq_sum_batch_mean` where a response is one action, else mostly `token_mean`.
    """
    if pull.coef == 0 or pull.place == "reward":
        return logp_NT.new_zeros(())
    log_ratio_NT = log_ratios(logp_NT, require(ref_logp_NT, "ref_logp_NT"), mask_NT)
    return pull.coef * reduction(kl_per_token(log_ratio_NT, pull.form), mask_NT, row_weight_N)


def kl_in_reward(pull: Pull, old_logp_NT: Tensor | None, ref_logp_NT: Tensor | None, mask_NT: Tensor) -> Tensor:
    """coef * k(log old - log ref) of each token, (N, T), detached; 0 where the pull is in the loss.

    To be taken off the reward. The log-probs are those of the policy that drew the responses.
    """
    if pull.coef == 0 or pull.place == "loss":
        return torch.zeros_like(mask_NT)
    old_logp_NT = require(old_logp_NT, "old_logp_NT").detach()
    log_ratio_NT = log_ratios(old_logp_NT, require(ref_logp_NT, "ref_logp_NT"), mask_NT)
    return pull.coef * kl_per_token(log_ratio_NT, pull.form)


def penalised_rewards(
    pull: Pull, rewards_N: Tensor, old_logp_NT: Tensor | None, ref_logp_NT: Tensor | None, mask_NT: Tensor
) -> Tensor:
    """R - sum_t coef * k(log old - log ref) of each response, (N,), detached; R where the pull is in the loss."""
    return rewards_N.detach() - kl_in_reward(pull, old_logp_NT, ref_logp_NT, mask_NT).sum(1)
