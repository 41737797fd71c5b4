"""Passes of a batch through a model: cut to a budget of tokens, shared out over processes, with or without gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from rlfamily.models.batching import Forward, Padded, spans
from rlfamily.trainer.learner import Learner


class Met(NamedTuple):
    """The rows (N,) that went through a model with gradient, and their leaf, as far as this process passed them."""

    rows_N: Tensor
    leaf: Tensor


class Passes:
    """How the rows of a batch go through a model, at most `micro_tokens` tokens at a time (at least one row).

    A `sharded` model is passed by all processes together: each makes as many passes as the one with most.
    """

    def __init__(self, accelerator: Accelerator, micro_tokens: int, temperature: float, sharded: bool) -> None:
        self.accelerator, self.micro_tokens, self.temperature = accelerator, micro_tokens, temperature
        self.sharded = sharded

    def forward(self, model: Learner, rows: Padded) -> Forward:
        """The whole batch. With gradient when it is one pass; else the gradient comes from a second one, `backward`."""
        if self.accelerator.num_processes == 1 and len(self._cut(model, rows)) == 1:
            return model.evaluate(rows, self.temperature)
        return self.without_gradient(model, rows)

    def without_gradient(self, model: Learner, rows: Padded) -> Forward:
        """The whole batch in every process, each passing its own rows."""
        full = _zeros(model, rows)  # a process may have no row of its own
        with torch.no_grad():
            for span, own in self._cut(model, rows):
                part = model.evaluate(rows[span], self.temperature)
                for whole, piece in zip(_parts(full), _parts(part), strict=True):
                    if own:
                        whole[span] = piece
        if self.accelerator.num_processes == 1:
            return full
        # rows of other processes are zeros here: a sum gathers them
        return Forward(*(self.accelerator.reduce(one, reduction="sum") for one in _parts(full)))

    def backward(self, model: Learner, rows: Padded, forward: Forward, gradients: Sequence[Tensor]) -> Met:
        """Push the gradients of a batch's outputs into the model: through `forward`, or anew where it has no graph.

        In the second case rows whose gradients are all exactly 0 (a group of equal rewards, say) are left out.
        """
        if forward.leaf.requires_grad:
            torch.autograd.backward(_differentiable(forward), gradients)
            return Met(torch.ones(len(rows.ids_NL), dtype=torch.bool), forward.leaf.detach())
        moving_N = torch.stack([(gradient != 0).reshape(len(gradient), -1).any(1) for gradient in gradients]).any(0)
        met = [forward.leaf[:0]]
        if moving_N.any():
            rows, gradients = rows[moving_N.cpu()], [gradient[moving_N] for gradient in gradients]
            for span, own in self._cut(model, rows):
                part = model.evaluate(rows[span], self.temperature)
                torch.autograd.backward(_differentiable(part), [gradient[span] * own for gradient in gradients])
                met.append(part.leaf.detach())
        return Met(moving_N, torch.cat(met))

    def _cut(self, model: Learner, rows: Padded) -> list[tuple[slice, bool]]:
        """This process's passes, each marked as its own.

        For every pass that another process has more, a process that shares a sharded model passes a row that does not
        count.
        """
        count, processes = len(rows.ids_NL), self.accelerator.num_processes
        share = -(-count // processes)
        cuts = [spans(rows, self.micro_tokens, model.shares_prefixes, share * number, min(count, share * (number + 1)))
                for number in range(processes)]
        own = cuts[self.accelerator.process_index]
        idle = max(map(len, cuts)) - len(own) if self.sharded else 0
        return [(span, True) for span in own] + [(slice(0, 1), False)] * idle


def _zeros(model: Learner, rows: Padded) -> Forward:
    """What `model` answers for the rows, in shape."""
    entropy_N = torch.zeros(len(rows.ids_NL), device=model.device)
    leaf = torch.zeros(rows.mask_NT.shape, device=model.device) if model.token_level else torch.zeros_like(entropy_N)
    return Forward(leaf, entropy_N, None if getattr(model, "value_head", None) is None else torch.zeros_like(leaf))


def _parts(forward: Forward) -> list[Tensor]:
    return [part for part in forward if part is not None]


def _differentiable(forward: Forward) -> list[Tensor]:
    """What carries a gradient into the learner."""
    return [forward.leaf] if forward.values_NT is None else [forward.leaf, forward.values_NT]

