"""Sequences of unequal length laid end to end, and the same as a padded grid."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor


class Ragged:
    """R sequences laid end to end (M tokens), and the same as a grid (R, W), padded on the right."""

    def __init__(self, lengths_R: Tensor) -> None:
        self.lengths_R = lengths_R
        self.count, self.width = len(lengths_R), int(lengths_R.max())
        self.tokens = int(lengths_R.sum())
        self.even = self.tokens == self.count * self.width
        self.starts_R = lengths_R.cumsum(0) - lengths_R
        self.place_W = torch.arange(self.width, device=lengths_R.device)
        self.real_RW = self.place_W < lengths_R[:, None]
        self.cells_M = self.real_RW.flatten().nonzero()[:, 0]
        self.source = torch.where(self.real_RW, self.starts_R[:, None] + self.place_W, 0).flatten()  # pads read token 0

    @cached_property
    def bias(self) -> Tensor | None:
        """(R, 1, 1, W), -inf on pads, to be added to attention scores; None where there is no pad."""
        if self.even:
            return None
        real = self.real_RW[:, None, None]
        return torch.zeros(real.shape, device=real.device).masked_fill(~real, -torch.inf)

    def grid(self, states_MHD: Tensor) -> Tensor:
        """(R, H, W, D), as attention wants it."""
        cells = states_MHD if self.even else states_MHD.index_select(0, self.source)
        return torch.unflatten(cells, 0, (self.count, self.width)).transpose(1, 2)

    def padded(self, states_MHD: Tensor, value: float) -> Tensor:
        """`grid` with `value` on pads, where `grid` has whatever token 0 has."""
        states_RHWD = self.grid(states_MHD)
        return states_RHWD if self.even else states_RHWD.masked_fill(~self.real_RW[:, None, :, None], value)

    def flat(self, states_RHWD: Tensor) -> Tensor:
        """(M, H, D): `grid` undone."""
        cells = states_RHWD.transpose(1, 2).flatten(0, 1)
        return cells if self.even else cells.index_select(0, self.cells_M)
