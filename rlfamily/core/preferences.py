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


def whole_pair_weights(mask_NT: Tensor, row_weight_N: Tensor | None) -> Tensor:
    """The weight that both rows of a pair share, 0 for pairs with a response without tokens, (B,)."""
    weight_N = nonempty_weights(mask_NT, row_weight_N)
    return weight_N[0::2].minimum(weight_N[1::2])


def bradley_terry_nll(margin_B: Tensor) -> Tensor:
    """-log sigmoid(margin) per pair, (B,): the chosen response beats the rejected one by `margin`.

    Finite at any margin.
    """
    check(margin_B=margin_B)
    return functional.softplus(-margin_B)
