"""Preferences between two responses: pairs are groups of two, and the Bradley-Terry model says who wins."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from rlfamily.core.masking import nonempty_weights
from rlfamily.core.shapes import check


def pair_differences(x_N: Tensor, group_size: int) -> Tensor:
    """x of each pair's first response less that of its second, (B,). Raises ValueError when rows are not pairs."""
    check(x_N=x_N)
    if group_size != 2 or len(x_N) % 2:
        raise ValueError(f"{len(x_N)} rows in groups of {group_size} are not preference pairs")
    return x_N[0::2] - x_N[1::2]


def whole_pairs(mask_NT: Tensor) -> Tensor:
    """1 for pairs of which both responses have tokens, else 0, (B,)."""
    nonempty_N = nonempty_weights(mask_NT, None)
    return nonempty_N[0::2] * nonempty_N[1::2]


def bradley_terry_nll(margin_B: Tensor) -> Tensor:
    """-log sigmoid(margin) per pair, (B,): the chosen response beats the rejected one by `margin`.

    Finite at any margin.
    """
    check(margin_B=margin_B)
    return functional.softplus(-margin_B)
