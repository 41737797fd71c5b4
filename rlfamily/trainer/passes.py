"""Passes of a batch through a model: cut to a budget of tokens, shared out over processes, with or without gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from rlfamily.models.batching import Forward, RowTensors
from rlfamily.trainer.learner import Learner


class Met(NamedTuple):
    """The rows (N,) that went through a model with gradient, and their leaves, as far as this process passed them."""

    rows_N: Tensor
    leaves: dict[str, Tensor]


class Passes:
    """How the rows of a batch go through a model, at most `micro_tokens` tokens at a time (at least one row).

    A `sharded` model is passed by all processes together: each makes as many passes as the one with most.
    """

    def __init__(self, accelerator: Accelerator, micro_tokens: int, temperature: float, sharded: bool) -> None:
        self.accelerator, self.micro_tokens, self.temperature = accelerator, micro_tokens, temperature
        self.sharded = sharded
        self._forwards = 0

    def taken_forwards(self) -> int:
        """Rows passed through a network by this process since the last time this was asked."""
        taken, self._forwards = self._forwards, 0
        return taken

    def forward(self, model: Learner, rows: RowTensors) -> Forward:
        """The whole batch. With gradient when it is one pass; else the gradient comes from a second one, `backward`."""
        if self.accelerator.num_processes == 1 and len(self._cut(model, rows)) == 1:
            return self._evaluate(model, rows)
        return self.without_gradient(model, rows)

    def without_gradient(self, model: Learner, rows: RowTensors) -> Forward:
        """The whole batch in every process, each passing its own rows."""
        whole: dict[str, Tensor] = {}
        with torch.no_grad():
            for span, own in self._cut(model, rows):
                for name, part in self._evaluate(model, rows[span]).tensors().items():
                    if name not in whole:
                        whole[name] = part.new_zeros(len(rows), *part.shape[1:])
                    if own:
                        whole[name][span] = part
        if self.accelerator.num_processes == 1:
            return Forward(**whole)
        # rows of other processes are zeros here: a sum gathers them
        return Forward(**{name: self.accelerator.reduce(tensor, reduction="sum") for name, tensor in whole.items()})

    def backward(self, model: Learner, rows: RowTensors, forward: Forward, gradients: Mapping[str, Tensor]) -> Met:
        """Push the gradients of a batch's leaves into the model: through `forward`, or anew where it has no graph.

        In the second case rows whose gradients are all exactly 0 (a group of equal rewards, say) are left out.
        """
        leaves = {name: leaf for name, leaf in forward.leaves().items() if name in gradients}
        if any(leaf.requires_grad for leaf in leaves.values()):
            torch.autograd.backward(list(leaves.values()), [gradients[name] for name in leaves])
            return Met(torch.ones(len(rows), dtype=torch.bool), {name: leaf.detach() for name, leaf in leaves.items()})
        moving_N = torch.stack([(slope != 0).reshape(len(slope), -1).any(1) for slope in gradients.values()]).any(0)
        met = [{name: leaf[:0] for name, leaf in leaves.items()}]
        if moving_N.any():
            rows, gradients = rows[moving_N.cpu()], {name: slope[moving_N] for name, slope in gradients.items()}
            for span, own in self._cut(model, rows):
                part = self._evaluate(model, rows[span]).leaves()
                slopes = [gradients[name][span] * own for name in leaves]
                torch.autograd.backward([part[name] for name in leaves], slopes)
                met.append({name: part[name].detach() for name in leaves})
        return Met(moving_N, {name: torch.cat([part[name] for part in met]) for name in leaves})

    def _evaluate(self, model: Learner, rows: RowTensors) -> Forward:
        self._forwards += len(rows)
        return model.evaluate(rows, self.temperature)

    def _cut(self, model: Learner, rows: RowTensors) -> list[tuple[slice, bool]]:
        """This process's passes, each marked as its own.

        A process without rows passes one that does not count; so does a process that shares a sharded model, for every
        pass that another one has more.
        """
        count, processes = len(rows), self.accelerator.num_processes
        share = -(-count // processes)
        cuts = [model.layout.cut(rows, self.micro_tokens, share * number, min(count, share * (number + 1)))
                for number in range(processes)]
        own = cuts[self.accelerator.process_index]
        idle = max(map(len, cuts)) - len(own) if self.sharded else int(not own)
        return [(span, True) for span in own] + [(slice(0, 1), False)] * idle
