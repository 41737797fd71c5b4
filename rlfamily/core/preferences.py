"""The Bradley-Terry model of a preference between two responses."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from rlfamily.core.shapes import check


def bradley_terry_nll(margin_B: Tensor) -> Tensor:
    """-log sigmoid(margin) per pair, (B,): the chosen response beats the rejected one by `margin`.

    Finite at any margin.
    """
    check(margin_B=margin_B)
    return functional.softplus(-margin_B)
