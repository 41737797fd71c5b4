"""PPO's pessimistic objectives (Schulman et al. 2017; TRL's value clip), and what critics put in their place."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rlfamily.core.gae import whiten
from rlfamily.core.ratios import bounded_exp
from rlfamily.core.reductions import token_mean


def clipped_surrogate(log_ratio: Tensor, advantages: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """max(-A rho, -A clip(rho, 1-clip, 1+clip)) elementwise, to be minimised, with rho = exp(log_ratio).

    The second tensor is 1 where the clip took the gradient away: where rho already went further
    than allowed in the direction A wants.
    """
    ratio = bounded_exp(log_ratio)
    plain = -advantages * ratio
    limited = -advantages * ratio.clamp(1 - clip, 1 + clip)
    return torch.maximum(plain, limited), (limited > plain).to(plain.dtype)


def clipped_value_error(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> Tensor:
    """max((V - ret)^2, (V_c - ret)^2) / 2 elementwise, V_c = V_old + clip(V - V_old, -clip, clip).

    `clip` inf is the plain squared error.
    """
    near_old = old_values + (values - old_values).clamp(-clip, clip)
    return torch.maximum((values - returns).square(), (near_old - returns).square()) / 2


def surrogate_loss(
    log_ratio_NT: Tensor, advantages_NT: Tensor, mask_NT: Tensor, row_weight_N: Tensor | None, clip: float, white: bool
) -> tuple[Tensor, Tensor]:
    """Token mean of the clipped surrogate, advantages whitened where `white`, and the fraction of tokens it clipped."""
    if white:
        advantages_NT = whiten(advantages_NT, mask_NT, row_weight_N)
    loss_NT, clipped_NT = clipped_surrogate(log_ratio_NT, advantages_NT, clip)
    return token_mean(loss_NT, mask_NT, row_weight_N), token_mean(clipped_NT, mask_NT, row_weight_N)


def soft_bellman_loss(
    log_ratio: Tensor, values: Tensor, rewards: Tensor, alpha: float, form: Literal["direct", "printed"]
) -> Tensor:
    """The policy's part of alpha/2 (V + lr - R/alpha)^2 elementwise, with V detached and lr = log_ratio.

    direct   -(R - alpha V) lr + alpha/2 lr^2
    printed  -(R - V) lr - alpha/2 lr^2, as papers print it
    """
    scale, sign = (alpha, 1.0) if form == "direct" else (1.0, -1.0)
    return (scale * values.detach() - rewards) * log_ratio + sign * alpha / 2 * log_ratio.square()
