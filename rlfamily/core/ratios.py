"""Likelihood ratios, kept in log space until the last moment, and schedules for their limits."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from rlfamily.core.masking import masked
from rlfamily.core.shapes import check

Schedule = Literal["linear", "cosine", "exp"]

# exp(20) = 4.9e8 squares to 2e17, so that a gradient norm still fits fp32.
MAX_EXPONENT = 20.0


def log_ratios(logp_NT: Tensor, other_logp_NT: Tensor, mask_NT: Tensor) -> Tensor:
    """log pi(y_t)/pi_other(y_t) per token, (N, T).

    Pads are exactly 0 with zero gradient; the other policy is detached.
    """
    check(logp_NT=logp_NT, other_logp_NT=other_logp_NT, mask_NT=mask_NT)
    return masked(logp_NT - other_logp_NT.detach(), mask_NT)


def clipped_exp(log_ratio: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """clip(exp(log_ratio), low, high) for 0 <= low <= high, done in log space: no overflow."""
    return torch.clamp(log_ratio, min=low.log(), max=high.log()).exp()


def bounded_exp(x: Tensor) -> Tensor:
    """exp(x), but beyond x = 20 value and gradient stay exp(20): no overflow, no lost gradient."""
    excess = (x - MAX_EXPONENT).clamp(min=0).detach()
    return (x - excess).exp()


def bounded_exponents(x: Tensor) -> tuple[Tensor, Tensor]:
    """x less one number for all, so that the largest is at most 20, and that number, 0 or more.

    Exponentials keep their proportions, which bounding each by itself would not; clipping a gradient's norm takes the
    number out anyway.
    """
    excess = (x.max() - MAX_EXPONENT).clamp(min=0)
    return x - excess, excess


def scheduled(start: float, end: float, schedule: Schedule, progress: float) -> float:
    """Value at `progress` in [0, 1] on the way from `start` to `end`; `exp` is geometric."""
    if schedule == "linear":
        return start + (end - start) * progress
    if schedule == "cosine":
        return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
    return float(start * (end / start) ** progress)
