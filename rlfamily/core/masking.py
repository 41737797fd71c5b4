"""Sums and means under a mask.

The function's name says the denominator; an empty one gives 0, never NaN.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rlfamily.core.shapes import check


def masked(x_NT: Tensor, mask_NT: Tensor) -> Tensor:
    """x on real tokens and exactly 0, with zero gradient, on pads; selects, so NaN or inf in a pad is inert."""
    check(x_NT=x_NT, mask_NT=mask_NT)
    return torch.where(mask_NT > 0, x_NT, torch.zeros_like(x_NT))


def sum_over_tokens(x_NT: Tensor, mask_NT: Tensor) -> Tensor:
    """Sum of each row's unmasked tokens, (N,)."""
    return masked(x_NT, mask_NT).sum(1)


def mean_over_row_tokens(x_NT: Tensor, mask_NT: Tensor) -> Tensor:
    """Mean over each row's own unmasked tokens, (N,); 0 for a row without tokens."""
    return sum_over_tokens(x_NT, mask_NT) / mask_NT.sum(1).clamp(min=1)


def aggregate_tokens(x_NT: Tensor, mask_NT: Tensor, how: Literal["sum", "mean"]) -> Tensor:
    """A response's number from its tokens', (N,): their sum, or their mean; 0 for a row without tokens."""
    return sum_over_tokens(x_NT, mask_NT) if how == "sum" else mean_over_row_tokens(x_NT, mask_NT)


def expectation_over_rows(x_N: Tensor, row_weight_N: Tensor | None) -> Tensor:
    """sum_n w_n x_n / sum_n w_n, a scalar; None means equal weights, all-zero weights give 0."""
    check(x_N=x_N, row_weight_N=row_weight_N)
    if row_weight_N is None:
        return x_N.mean()
    return divide_or_zero((row_weight_N * x_N).sum(), row_weight_N.sum())


def nonempty_weights(mask_NT: Tensor, row_weight_N: Tensor | None) -> Tensor:
    """Row weights with 0 for rows that have no tokens (dropped by `mask_truncated`), (N,).

    Every expectation over rows of a loss or its metrics takes these: such a row is in no numerator and no denominator.
    """
    check(mask_NT=mask_NT, row_weight_N=row_weight_N)
    nonempty_N = mask_NT.sum(1).clamp(max=1)
    return nonempty_N if row_weight_N is None else nonempty_N * row_weight_N


def group_weights(mask_NT: Tensor, row_weight_N: Tensor | None, group_size: int) -> Tensor:
    """The weight that all rows of a group share, 0 for groups without any token, (B,)."""
    nonempty_B = nonempty_weights(mask_NT, None).view(-1, group_size).amax(1)
    return nonempty_B if row_weight_N is None else nonempty_B * row_weight_N[::group_size]


def divide_or_zero(numerator: Tensor, denominator: Tensor) -> Tensor:
    """numerator / denominator, and 0 (with zero, finite gradient) where the denominator is 0."""
    empty = denominator == 0
    return torch.where(empty, torch.zeros_like(numerator), numerator / torch.where(empty, 1, denominator))
