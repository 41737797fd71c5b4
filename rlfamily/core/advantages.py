"""Group-relative advantages and weights: functions of the K rewards of one prompt, never of the policy."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rlfamily.core.masking import expectation_over_rows
from rlfamily.core.shapes import check


def group_center(rewards_N: Tensor, group_size: int) -> Tensor:
    """R_i - mean over the group, itself included, (N,).

    Its expected gradient is (K-1)/K of the policy gradient. Equal rewards give exactly 0.
    """
    return _centred(rewards_N, group_size).flatten()


def group_leave_one_out(rewards_N: Tensor, group_size: int) -> Tensor:
    """R_i - mean of the other K-1 rewards, (N,): RLOO (Ahmadian et al. 2024).

    Equal rewards give exactly 0. Raises ValueError when K=1.
    """
    if group_size == 1:
        raise ValueError("group_size=1: a leave-one-out baseline needs at least two responses per prompt")
    shifted_BK = _shifted(rewards_N, group_size)
    others_BK = (shifted_BK.sum(1, keepdim=True) - shifted_BK) / (group_size - 1)
    return (shifted_BK - others_BK).flatten()


def group_zscore(rewards_N: Tensor, group_size: int) -> Tensor:
    """(R_i - mean) / (std + 1e-4) with the K-1 standard deviation, (N,): GRPO, epsilon of TRL.

    Equal rewards give exactly 0. Raises ValueError when K=1.
    """
    if group_size == 1:
        raise ValueError("group_size=1: a standard deviation needs at least two responses per prompt")
    centred_BK = _centred(rewards_N, group_size)
    return (centred_BK / (centred_BK.std(1, keepdim=True) + 1e-4)).flatten()


def log_mean_of_other_groups(log_weight_BK: Tensor, group_weight_B: Tensor, alone: float) -> Tensor:
    """log of the mean of exp(log_weight) over all rows of the other groups, (B, 1).

    Where no other has weight, `alone` stands in, to be independent of the batch as well.
    """
    log_mean_B = log_weight_BK.logsumexp(1) - math.log(log_weight_BK.shape[1])
    others_BB = group_weight_B.log().expand(len(log_mean_B), -1).clone().fill_diagonal_(-math.inf)
    log_total_B = others_BB.logsumexp(1)
    found_B = (log_mean_B + others_BB).logsumexp(1) - log_total_B
    return torch.where(log_total_B == -math.inf, alone, found_B).unsqueeze(1)


def weight_metrics(log_weight_BK: Tensor, group_weight_B: Tensor) -> dict[str, Tensor]:
    """How sharp the weights are within a group, and how far groups differ in scale (nats)."""
    log_scale_B = log_weight_BK.logsumexp(1)
    log_share_BK = log_weight_BK - log_scale_B.unsqueeze(1)
    share_BK = log_share_BK.exp()
    return {
        "weight_entropy": expectation_over_rows(-(share_BK * log_share_BK).sum(1), group_weight_B),
        "weight_max": expectation_over_rows(share_BK.amax(1), group_weight_B),
        "weight_scale_log_range": log_scale_B.max() - log_scale_B.min(),
    }


def _centred(rewards_N: Tensor, group_size: int) -> Tensor:
    """R_i - mean of its group, (B, K)."""
    shifted_BK = _shifted(rewards_N, group_size)
    return shifted_BK - shifted_BK.mean(1, keepdim=True)


def _shifted(rewards_N: Tensor, group_size: int) -> Tensor:
    """Differences from the group's first reward, (B, K): no rounding is left over where rewards are equal."""
    rewards_BK = _grouped(rewards_N, group_size)
    return rewards_BK - rewards_BK[:, :1]


def _grouped(rewards_N: Tensor, group_size: int) -> Tensor:
    check(rewards_N=rewards_N)
    if rewards_N.numel() % group_size:
        raise ValueError(f"{rewards_N.numel()} rows are not whole groups of {group_size}")
    return rewards_N.detach().view(-1, group_size)
