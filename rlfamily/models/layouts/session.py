"""What a layout decodes with: rows that grow by a token at a time."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Session(Protocol):
    """R rows being decoded; `logits_RV` is what the next token of each is drawn from."""

    logits_RV: Tensor

    def step(self, token_R: Tensor) -> Tensor:
        """Append a token to every row; the new `logits_RV`."""
        ...

    def select(self, index_R: Tensor) -> None:
        """Make row r what row `index_R[r]` was; `logits_RV` too. Cheap for rows that stay in place."""
        ...


def selected(states: Tensor, index_R: Tensor, length: int | None = None) -> Tensor:
    """`states[index_R]`, of which `length` places count; in place as far as rows stay where they are."""
    if len(index_R) > len(states):
        return states[index_R]
    moved_R = (index_R != torch.arange(len(index_R), device=index_R.device)).nonzero()[:, 0]
    if length is None:
        states[moved_R] = states[index_R[moved_R]]
    else:
        states[moved_R, :, :length] = states[index_R[moved_R], :, :length]
    return states[:len(index_R)]
