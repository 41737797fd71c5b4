"""Every response of an enumerable world as a row of its states: values are a table, expectations are finite sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlfamily import values
from rlfamily.theory.world import GARBAGE, World, drawn
from rlfamily.values import ValueBatch


@dataclass(frozen=True)
class States:
    """M responses with S = T + 1 states each: prefixes are shared, a complete response is a state of its own."""

    world: World
    state_MS: Tensor
    mask_MS: Tensor
    probability_M: Tensor
    rewards_M: Tensor
    count: int

    def batch(self, table_X: Tensor, **fields: Any) -> ValueBatch:
        """The rows, weighted by their probability; nonsense on pads."""
        return ValueBatch(self.rows(table_X), self.mask_MS, self.rewards_M, row_weight_N=self.probability_M, **fields)

    def rows(self, table_X: Tensor) -> Tensor:
        return torch.where(self.mask_MS > 0, table_X[self.state_MS], GARBAGE)

    def expected(self, of_M: Tensor) -> Tensor:
        """E[of | state], (X,): V^pi for of = r."""
        weight_MS = self.probability_M[:, None] * self.mask_MS
        total_X, mass_X = (torch.zeros(self.count, dtype=torch.float64).index_put_((self.state_MS,), part, accumulate=True)
                           for part in (weight_MS * of_M[:, None], weight_MS))
        return total_X / mass_X


def states(seed: int = 0, eos: bool = True) -> States:
    world, policy, rewards_M = drawn(seed, vocab=3, length=3, eos=eos)
    lengths_M = world.mask_MT.sum(1).long()
    index_M = torch.arange(len(lengths_M))
    state_MS = torch.cat([world.state_MT, torch.zeros_like(world.state_MT[:, :1])], 1)
    state_MS[index_M, lengths_M] = world.num_states + index_M
    mask_MS = torch.cat([torch.ones_like(world.mask_MT[:, :1]), world.mask_MT], 1)
    return States(world, state_MS, mask_MS, world.probability(policy), rewards_M, world.num_states + len(index_M))


SETTINGS: dict[str, dict[str, Any]] = {"td": {"gamma": 1.0}, "gae": {"gamma": 1.0, "lam": 1.0}, "fudge": {"threshold": 0.0}}


def config(kind: str, **changes: Any) -> Any:
    own = {"kind": kind, "reduction": "token_mean"} | SETTINGS.get(kind, {}) | changes
    return values.get(kind).Config.model_validate(own)


def random_table(world: States, seed: int = 1) -> Tensor:
    return torch.randn(world.count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(world: States, table_X: Tensor, settings: Any, **fields: Any) -> Tensor:
    """Of the exact expected loss, with respect to the value of every state."""
    leaf_X = table_X.clone().requires_grad_()
    loss = values.get(settings.kind).loss(world.batch(leaf_X, **fields), settings).loss
    return torch.autograd.grad(loss, leaf_X)[0]


def resting(world: States, settings: Any) -> Tensor:
    """Where descent on a loss whose slope is affine in the values comes to rest."""
    start_X = torch.zeros(world.count, dtype=torch.float64)
    at_start_X = gradient(world, start_X, settings)
    slopes_XX = torch.stack([gradient(world, unit_X, settings) - at_start_X for unit_X in torch.eye(world.count).double()], 1)
    return torch.linalg.solve(slopes_XX, -at_start_X)
