"""An enumerable world: a tabular policy over all sequences of a few tokens, so that expectations
are finite sums.

A policy is a table of logits, one row per prefix (state). With `eos=True` token 0 ends a sequence
and everything after it is padding; the package must ignore what pads hold, so they hold nonsense
here. Everything is float64. Letters: M sequences, T tokens, S states, V vocabulary; N = rows of a
batch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations_with_replacement, product
from typing import Any

import torch
from torch import Tensor

from rlfamily.algorithms import LossBatch

GARBAGE = -7.25


@dataclass(frozen=True)
class World:
    """All sequences, the state each token is drawn in, and which tokens are real."""

    tokens_MT: Tensor
    state_MT: Tensor
    mask_MT: Tensor
    num_states: int
    vocab: int

    def logits(self, seed: int) -> Tensor:
        """A random policy that wants a gradient."""
        generator = torch.Generator().manual_seed(seed)
        shape = (self.num_states, self.vocab)
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    def rewards(self, seed: int) -> Tensor:
        """A random reward of either sign for every sequence, (M,)."""
        generator = torch.Generator().manual_seed(1000 + seed)
        return torch.randn(len(self.tokens_MT), generator=generator, dtype=torch.float64)

    def logp(self, logits_SV: Tensor) -> Tensor:
        """Token log-probs of every sequence, (M, T); nonsense on pads."""
        logp_MT = logits_SV.log_softmax(1)[self.state_MT, self.tokens_MT]
        return torch.where(self.mask_MT > 0, logp_MT, logp_MT + GARBAGE)

    def sequence_logp(self, logits_SV: Tensor) -> Tensor:
        """log pi(y) of every sequence, (M,)."""
        return (self.logp(logits_SV) * self.mask_MT).sum(1)

    def probability(self, logits_SV: Tensor) -> Tensor:
        """pi(y) of every sequence, (M,)."""
        return self.sequence_logp(logits_SV).exp()

    def policy(self, probability_M: Tensor) -> Tensor:
        """Logits of the policy that draws each sequence with this probability, (S, V)."""
        mass_SV = torch.zeros(self.num_states, self.vocab, dtype=torch.float64)
        mass_MT = probability_M[:, None] * self.mask_MT
        mass_SV.index_put_((self.state_MT, self.tokens_MT), mass_MT, accumulate=True)
        return mass_SV.log()


def build(vocab: int, length: int, eos: bool) -> World:
    """Enumerate the world.

    A sequence is cut after its first EOS; those without one are truncated at `length`.
    """
    sequences = sorted({_cut(tokens, eos) for tokens in product(range(vocab), repeat=length)})
    states: dict[tuple[int, ...], int] = {}
    for sequence in sequences:
        for t in range(len(sequence)):
            states.setdefault(sequence[:t], len(states))
    rows = [
        [(states[y[:t]], y[t], 1.0) for t in range(len(y))] + [(0, 0, 0.0)] * (length - len(y))
        for y in sequences
    ]
    table = torch.tensor(rows, dtype=torch.float64)
    return World(table[..., 1].long(), table[..., 0].long(), table[..., 2], len(states), vocab)


def drawn(seed: int, vocab: int, length: int, eos: bool) -> tuple[World, Tensor, Tensor]:
    """A world with a random policy, (S, V), and random rewards, (M,)."""
    world = build(vocab, length, eos)
    return world, world.logits(seed).detach(), world.rewards(seed)


def _cut(tokens: tuple[int, ...], eos: bool) -> tuple[int, ...]:
    return tokens[: tokens.index(0) + 1] if eos and 0 in tokens else tokens


@dataclass(frozen=True)
class Groups:
    """Groups of `size` sequences: which ones, row by row, and how probable each group is."""

    size: int
    index_N: Tensor
    weight_B: Tensor

    def batch(
        self,
        world: World,
        logp_MT: Tensor,
        old_logp_MT: Tensor,
        rewards_M: Tensor,
        ref_logp_MT: Tensor | None = None,
        **fields: Any,
    ) -> LossBatch:
        """What a loss sees of them; every row of a group carries the group's probability."""
        return LossBatch(
            logp_MT[self.index_N],
            world.mask_MT[self.index_N],
            rewards_M[self.index_N],
            self.size,
            old_logp_NT=old_logp_MT[self.index_N],
            ref_logp_NT=None if ref_logp_MT is None else ref_logp_MT[self.index_N],
            row_weight_N=self.weight_B.repeat_interleave(self.size),
            **fields,
        )


def ordered_groups(probability_M: Tensor, size: int) -> Groups:
    """Every tuple of sequences: for losses to which the order within a group matters."""
    return _groups(product(range(len(probability_M)), repeat=size), probability_M, size)


def unordered_groups(probability_M: Tensor, size: int) -> Groups:
    """Every multiset of sequences, as probable as all its orders together: far fewer."""
    return _groups(combinations_with_replacement(range(len(probability_M)), size), probability_M, size)


def sampled_groups(probability_M: Tensor, size: int, count: int, generator: torch.Generator) -> Groups:
    """`count` independent groups, all with the same weight."""
    index_N = torch.multinomial(probability_M, count * size, replacement=True, generator=generator)
    return Groups(size, index_N, torch.ones(count, dtype=torch.float64))


def _groups(members: Iterable[tuple[int, ...]], probability_M: Tensor, size: int) -> Groups:
    chosen = list(members)
    weight_B = probability_M[torch.tensor(chosen)].prod(1)
    if len(chosen) < len(probability_M) ** size:
        weight_B = weight_B * torch.tensor([float(_orders(group)) for group in chosen], dtype=torch.float64)
    return Groups(size, torch.tensor(chosen).flatten(), weight_B)


def _orders(group: tuple[int, ...]) -> int:
    """In how many orders the multiset can be drawn."""
    return math.factorial(len(group)) // math.prod(math.factorial(n) for n in Counter(group).values())


def rollouts(
    world: World,
    logits: Tensor,
    rewards_M: Tensor,
    group_size: int,
    *,
    behaviour: Tensor | None = None,
    ref: Tensor | None = None,
    **fields: Any,
) -> LossBatch:
    """Every group of `group_size` sequences, weighted by its probability under the behaviour policy
    (default: pi itself).
    """
    mu = (logits if behaviour is None else behaviour).detach()
    groups = ordered_groups(world.probability(mu), group_size)
    ref_logp_MT = None if ref is None else world.logp(ref.detach())
    return groups.batch(world, world.logp(logits), world.logp(mu), rewards_M, ref_logp_MT, **fields)


def pairs(world: World, logits: Tensor, ref: Tensor, preference_MM: Tensor) -> LossBatch:
    """Every ordered pair (chosen i, rejected j), weighted by `preference_MM[i, j]`."""
    chosen, rejected = preference_MM.nonzero(as_tuple=True)
    index_N = torch.stack([chosen, rejected], 1).flatten()
    return LossBatch(
        world.logp(logits)[index_N],
        world.mask_MT[index_N],
        torch.zeros(len(index_N), dtype=torch.float64),
        2,
        ref_logp_NT=world.logp(ref.detach())[index_N],
        row_weight_N=preference_MM[chosen, rejected].repeat_interleave(2),
    )


def grad(scalar: Tensor, wrt: Tensor) -> Tensor:
    """d scalar / d wrt, without touching `.grad`; zero where there is no dependence."""
    found = torch.autograd.grad(scalar, wrt, allow_unused=True, retain_graph=True)[0]
    return torch.zeros_like(wrt) if found is None else found


def policy_gradient(world: World, logits: Tensor, rewards_M: Tensor) -> Tensor:
    """The gradient of J = sum_y pi(y) R(y), by differentiating the finite sum."""
    return grad((world.probability(logits) * rewards_M).sum(), logits)
