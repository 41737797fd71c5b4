"""Group-relative advantages: functions of the K rewards of one prompt, never of the policy."""

from __future__ import annotations

from torch import Tensor

from rlfamily.core.shapes import check


def group_center(rewards_N: Tensor, group_size: int) -> Tensor:
    """R_i - mean over the group, itself included, (N,).

    Its expected gradient is (K-1)/K of the policy gradient.
    """
    rewards_BK = _grouped(rewards_N, group_size)
    return (rewards_BK - rewards_BK.mean(1, keepdim=True)).flatten()


def group_leave_one_out(rewards_N: Tensor, group_size: int) -> Tensor:
    """R_i - mean of the other K-1 rewards, (N,): RLOO (Ahmadian et al. 2024).

    Equal rewards give exactly 0. Raises ValueError when K=1.
    """
    if group_size == 1:
        raise ValueError(
            "group_size=1: a leave-one-out baseline needs at least two responses per prompt"
        )
    rewards_BK = _grouped(rewards_N, group_size)
    # differences from the first reward: no rounding is left over where rewards are equal
    shifted_BK = rewards_BK - rewards_BK[:, :1]
    others_BK = (shifted_BK.sum(1, keepdim=True) - shifted_BK) / (group_size - 1)
    return (shifted_BK - others_BK).flatten()


def group_zscore(rewards_N: Tensor, group_size: int) -> Tensor:
    """(R_i - mean) / (std + 1e-4) with the K-1 standard deviation, (N,): GRPO, epsilon of TRL.

    Raises ValueError when K=1.
    """
    if group_size == 1:
        raise ValueError(
            "group_size=1: a standard deviation needs at least two responses per prompt"
        )
    rewards_BK = _grouped(rewards_N, group_size)
    centred_BK = rewards_BK - rewards_BK.mean(1, keepdim=True)
    return (centred_BK / (rewards_BK.std(1, keepdim=True) + 1e-4)).flatten()


def _grouped(rewards_N: Tensor, group_size: int) -> Tensor:
    check(rewards_N=rewards_N)
    if rewards_N.numel() % group_size:
        raise ValueError(f"{rewards_N.numel()} rows are not whole groups of {group_size}")
    return rewards_N.detach().view(-1, group_size)
