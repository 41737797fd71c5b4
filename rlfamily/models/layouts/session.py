"""What a layout decodes with: rows that grow by a token at a time."""

from __future__ import annotations

from typing import Protocol

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
