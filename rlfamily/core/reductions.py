"""The four ways in which the field turns a per-token term into a scalar: not interchangeable.

With lengths 2 and 10 and terms +1 and -1 on every token they give -4, 0, -2/3, and -2/5 for a
fixed length of 10. Rows without tokens count in none of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import Tensor

from rlfamily.core.masking import (
    divide_or_zero,
    expectation_over_rows,
    mean_over_row_tokens,
    nonempty_weights,
    sum_over_tokens,
)
from rlfamily.core.shapes import check

Reduction = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def seq_sum_batch_mean(x_NT: Tensor, mask_NT: Tensor, row_weight_N: Tensor | None) -> Tensor:
    """Expectation over rows of the row's token sum: a response is one action (RLOO, TOPR)."""
    return expectation_over_rows(sum_over_tokens(x_NT, mask_NT), nonempty_weights(mask_NT, row_weight_N))


def seq_mean_batch_mean(x_NT: Tensor, mask_NT: Tensor, row_weight_N: Tensor | None) -> Tensor:
    """Expectation over rows of the row's token mean (GRPO as published)."""
    return expectation_over_rows(mean_over_row_tokens(x_NT, mask_NT), nonempty_weights(mask_NT, row_weight_N))


def token_mean(x_NT: Tensor, mask_NT: Tensor, row_weight_N: Tensor | None) -> Tensor:
    """Mean over all unmasked tokens, sum(w x m) / sum(w m) (cross-entropy, PPO, TRL's `bnpo`)."""
    check(x_NT=x_NT, mask_NT=mask_NT, row_weight_N=row_weight_N)
    total_N, count_N = sum_over_tokens(x_NT, mask_NT), mask_NT.sum(1).to(x_NT.dtype)
    if row_weight_N is not None:
        total_N, count_N = total_N * row_weight_N, count_N * row_weight_N
    return divide_or_zero(total_N.sum(), count_N.sum())


def fixed_len(x_NT: Tensor, mask_NT: Tensor, row_weight_N: Tensor | None, max_length: int) -> Tensor:
    """Expectation over rows of the token sum divided by one constant length (`dr_grpo`)."""
    return seq_sum_batch_mean(x_NT, mask_NT, row_weight_N) / max_length


def named_reduction(name: Literal["token_mean", "seq_mean", "fixed_len"], max_length: int) -> Reduction:
    """The reduction of that name; `max_length` serves fixed_len."""
    if name == "token_mean":
        return token_mean
    return seq_mean_batch_mean if name == "seq_mean" else partial(fixed_len, max_length=max_length)
