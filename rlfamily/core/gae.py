"""From rewards and a critic's values to advantages per token.

`values_NT` is the value of the state before each token; after a response's last token it is 0,
whatever pads hold.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlfamily.core.masking import masked
from rlfamily.core.reductions import token_mean
from rlfamily.core.shapes import check, require

# TRL's masked_whiten: keeps equal advantages at 0 instead of 0/0
EPSILON = 1e-8


def critic_values(
    values_NT: Tensor | None, old_values_NT: Tensor | None, mask_NT: Tensor
) -> tuple[Tensor, Tensor]:
    """Present values, with gradient, and those that the batch began with, without; both (N, T), 0 on pads.

    `old_values_NT` None: the batch begins with the present ones. Raises ValueError when `values_NT` is None.
    """
    values_NT = masked(require(values_NT, "values_NT"), mask_NT)
    return values_NT, masked((values_NT if old_values_NT is None else old_values_NT).detach(), mask_NT)


def at_last_token(x_N: Tensor, mask_NT: Tensor) -> Tensor:
    """x of each row on its last real token and 0 elsewhere, (N, T): where a whole response's reward falls."""
    check(x_N=x_N, mask_NT=mask_NT)
    position_T = torch.arange(1, mask_NT.shape[1] + 1, device=mask_NT.device)
    last_NT = (position_T == mask_NT.sum(1, keepdim=True)) & (mask_NT > 0)
    return torch.where(last_NT, x_N[:, None], torch.zeros_like(x_N[:, None]))


def sums_to_go(x_NT: Tensor, mask_NT: Tensor) -> Tensor:
    """sum of x over the row's tokens i >= t, (N, T); 0 on pads."""
    return masked(x_NT, mask_NT).flip(1).cumsum(1).flip(1)


def generalized_advantages(
    rewards_NT: Tensor, values_NT: Tensor, mask_NT: Tensor, gamma: float, lam: float
) -> Tensor:
    """A_t = delta_t + gamma lam A_{t+1}, delta_t = r_t + gamma V_{t+1} - V_t, (N, T).

    Generalized advantage estimation (Schulman et al. 2016). The last real token has V_{t+1} = 0 and
    A_{t+1} = 0, truncated responses too: the limit on tokens is part of the task. A_t + V_t is the
    return that V_t is fitted to; with gamma = lam = 1 it is the Monte-Carlo return.
    """
    check(rewards_NT=rewards_NT, values_NT=values_NT, mask_NT=mask_NT)
    rewards_NT, values_NT = masked(rewards_NT, mask_NT), masked(values_NT, mask_NT)
    next_values_NT = torch.nn.functional.pad(values_NT[:, 1:], (0, 1))
    delta_NT = rewards_NT + gamma * next_values_NT - values_NT
    advantages = []
    ahead_N = torch.zeros_like(delta_NT[:, 0])
    for t in reversed(range(delta_NT.shape[1])):
        ahead_N = delta_NT[:, t] + gamma * lam * ahead_N
        advantages.append(ahead_N)
    return torch.stack(advantages[::-1], 1)


def whiten(x_NT: Tensor, mask_NT: Tensor, row_weight_N: Tensor | None) -> Tensor:
    """(x - mean) / std over all real tokens of the batch, (N, T); 0 on pads.

    The variance is that of the population, not TRL's n/(n-1) times it, so that row weights mean
    what they mean everywhere. Equal advantages give exactly 0.
    """
    # differences from one real token: no rounding is left over where all are equal
    shifted_NT = masked(x_NT - x_NT.flatten()[mask_NT.flatten().argmax()], mask_NT)
    centred_NT = masked(shifted_NT - token_mean(shifted_NT, mask_NT, row_weight_N), mask_NT)
    variance = token_mean(centred_NT.square(), mask_NT, row_weight_N)
    return centred_NT * (variance + EPSILON).rsqrt()


def step_starts(step_ends_NS: Tensor, mask_NT: Tensor) -> tuple[Tensor, Tensor]:
    """1 on the first token of each step, (N, T), and the index of the first token of each token's own step, (N, T).

    A step that repeats its row's length has no token and so no start.
    """
    check(step_ends_NS=step_ends_NS, mask_NT=mask_NT)
    starts_NS = torch.nn.functional.pad(step_ends_NS[:, :-1], (1, 0))
    width = mask_NT.shape[1]
    marks_NT = mask_NT.new_zeros(len(mask_NT), width + 1).scatter(1, starts_NS, 1.0)[:, :width]
    starts_NT = masked(marks_NT, mask_NT)
    position_T = torch.arange(width, device=mask_NT.device)
    first_NT = torch.where(starts_NT > 0, position_T, 0).cummax(1).values
    return starts_NT, first_NT
