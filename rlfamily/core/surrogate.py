"""PPO's two pessimistic objectives per token (Schulman et al. 2017; TRL's value clip)."""

from __future__ import annotations

import torch
from torch import Tensor

from rlfamily.core.ratios import bounded_exp


def clipped_surrogate(
    log_ratio: Tensor, advantages: Tensor, clip: float
) -> tuple[Tensor, Tensor]:
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
