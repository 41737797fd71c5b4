"""What the tests of methods with a critic share: batches of single responses with a table of values, and laws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from world import World, grad, rollouts

from rlfamily.algorithms import LossBatch, get

GARBAGE = -7.25
NO_KL = {"coef": 0.0, "form": "k1", "place": "reward"}
KL_REWARD = {"coef": 0.3, "form": "k1", "place": "reward"}
KL_LOSS = {"coef": 0.3, "form": "k3", "place": "loss"}
LEAVES = ("logp_NT", "values_NT")
PADDED = ("logp_NT", "mask_NT", "old_logp_NT", "ref_logp_NT", "values_NT", "old_values_NT")


def values_of(world: World, table_S: Tensor) -> Tensor:
    """The table's value of the state before each token of every sequence, (M, T); nonsense on pads."""
    values_MT = table_S[world.state_MT]
    return torch.where(world.mask_MT > 0, values_MT, values_MT + GARBAGE)


def table(world: World, seed: int) -> Tensor:
    """A random value for every state that wants a gradient."""
    generator = torch.Generator().manual_seed(2000 + seed)
    return torch.randn(world.num_states, generator=generator, dtype=torch.float64).requires_grad_()


def responses(
    world: World, logits: Tensor, rewards_M: Tensor, table_S: Tensor, **fields: Any
) -> LossBatch:
    """Every sequence once, weighted by its probability under the behaviour policy."""
    old_table_S = fields.pop("old_table", None)
    if old_table_S is not None:
        fields["old_values_NT"] = values_of(world, old_table_S).detach()
    return rollouts(world, logits, rewards_M, 1, values_NT=values_of(world, table_S), **fields)


def mean_length(world: World, logits: Tensor) -> Tensor:
    """Expected number of tokens: the denominator of a token mean."""
    return (world.probability(logits).detach() * world.mask_MT.sum(1)).sum()


def expected_to_go(world: World, logits: Tensor, rewards_M: Tensor) -> Tensor:
    """E[R | state] under the policy, (S,)."""
    weight_MT = world.probability(logits).detach()[:, None] * world.mask_MT
    flat_state = world.state_MT.flatten()
    visits_S = torch.zeros(world.num_states, dtype=torch.float64)
    visits_S.index_add_(0, flat_state, weight_MT.flatten())
    total_S = torch.zeros_like(visits_S)
    total_S.index_add_(0, flat_state, (weight_MT * rewards_M[:, None]).flatten())
    return total_S / visits_S


def tilted(world: World, logits: Tensor, rewards_M: Tensor, alpha: float) -> Tensor:
    """pi* of every sequence: pi e^(R/alpha) / Z, (M,)."""
    return (world.sequence_logp(logits).detach() + rewards_M / alpha).softmax(0)


def some_batch(dtype: torch.dtype = torch.float64, shift: float = 0.0) -> LossBatch:
    """Six single responses of lengths 1..4 with steps, some way from the behaviour policy and the first values."""
    generator = torch.Generator().manual_seed(0)
    old_NT, ref_NT, move_NT, values_NT, old_values_NT = (
        -torch.rand(6, 4, generator=generator, dtype=dtype) for _ in range(5)
    )
    length_N1 = torch.tensor([4, 2, 1, 3, 2, 4])[:, None]
    logp_NT = old_NT + 0.3 * move_NT
    logp_NT[:, 0] += shift
    return LossBatch(
        logp_NT.requires_grad_(),
        (torch.arange(4) < length_N1).to(dtype),
        torch.tensor([2.0, -2.0, 0.0, -2.0, 2.0, 1.0], dtype=dtype),
        1,
        old_NT,
        ref_NT,
        values_NT=values_NT.requires_grad_(),
        old_values_NT=old_values_NT,
        step_ends_NS=torch.tensor([[2, 3, 4], [1, 2, 2], [1, 1, 1], [1, 3, 3], [2, 2, 2], [1, 4, 4]]),
        row_weight_N=torch.tensor([1.0, 1.0, 2.0, 2.0, 0.5, 0.5], dtype=dtype),
    )


def outcome(name: str, batch: LossBatch, settings: Any) -> tuple[Tensor, list[Tensor], dict[str, float]]:
    """Loss, gradients with respect to both leaves, metrics."""
    out = get(name).loss(batch, settings)
    return out.loss.detach(), [grad(out.loss, getattr(batch, leaf)) for leaf in LEAVES], out.metrics


def changed(batch: LossBatch, names: tuple[str, ...], change: Any) -> LossBatch:
    """The batch with `change` applied to the named tensors; leaves stay leaves."""
    fields = {name: change(getattr(batch, name).detach()) for name in names}
    return replace(batch, **{
        name: value.requires_grad_() if name in LEAVES else value for name, value in fields.items()
    })
