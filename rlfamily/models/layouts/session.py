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

    def extend(self, ids_RL: Tensor, count_R: Tensor) -> Tensor:
        """Append the first `count_R[r]` of `ids_RL[r]` to row r, in one pass; logits_RLV behind each of them.

        `logits_RV` are then those behind a row's last token; a row that gets none keeps what it had.
        """
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


def last_logits(logits_RLV: Tensor, count_R: Tensor, before_RV: Tensor) -> Tensor:
    """logits_RV behind the last of each row's `count_R` new tokens; where there is none, those that it had before."""
    every_R = torch.arange(len(count_R), device=count_R.device)
    return torch.where(count_R[:, None] > 0, logits_RLV[every_R, (count_R - 1).clamp(min=0)], before_RV)
