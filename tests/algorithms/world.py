"""An enumerable world: a tabular policy over all sequences of a few tokens, so that expectations
are finite sums.

A policy is a table of logits, one row per prefix (state). With `eos=True` token 0 ends a sequence
and everything after it is padding; the package must ignore what pads hold, so they hold nonsense
here. Everything is float64. Letters: M sequences, T tokens, S states, V vocabulary; N = rows of a
batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from rlfamily.algorithms import LossBatch, get

CONF = Path(__file__).parents[2] / "conf" / "algorithm"
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


def _cut(tokens: tuple[int, ...], eos: bool) -> tuple[int, ...]:
    return tokens[: tokens.index(0) + 1] if eos and 0 in tokens else tokens


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
    index_N = torch.tensor(list(product(range(len(rewards_M)), repeat=group_size))).flatten()
    group_weight_B = world.probability(mu)[index_N].view(-1, group_size).prod(1)
    return LossBatch(
        world.logp(logits)[index_N],
        world.mask_MT[index_N],
        rewards_M[index_N],
        group_size,
        old_logp_NT=world.logp(mu)[index_N],
        ref_logp_NT=None if ref is None else world.logp(ref.detach())[index_N],
        row_weight_N=group_weight_B.repeat_interleave(group_size),
        **fields,
    )


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


def rows(
    logp: list[list[float]],
    mask: list[list[int]] | None = None,
    rewards: list[float] | None = None,
    group_size: int = 1,
    old: list[list[float]] | None = None,
    ref: list[list[float]] | None = None,
    dtype: torch.dtype = torch.float64,
    **fields: Any,
) -> LossBatch:
    """A batch written out by hand."""
    logp_NT = torch.tensor(logp, dtype=dtype, requires_grad=True)
    mask_NT = torch.ones_like(logp_NT).detach() if mask is None else torch.tensor(mask, dtype=dtype)
    rewards_N = (
        torch.zeros(len(logp), dtype=dtype)
        if rewards is None
        else torch.tensor(rewards, dtype=dtype)
    )
    return LossBatch(
        logp_NT,
        mask_NT,
        rewards_N,
        group_size,
        old_logp_NT=None if old is None else torch.tensor(old, dtype=dtype),
        ref_logp_NT=None if ref is None else torch.tensor(ref, dtype=dtype),
        **fields,
    )


def config(name: str, **changes: Any) -> Any:
    """The method's shipped yaml with some keys replaced, validated."""
    values = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    assert isinstance(values, dict)
    return get(name).Config.model_validate({**values, **changes})


def grad(scalar: Tensor, wrt: Tensor) -> Tensor:
    """d scalar / d wrt, without touching `.grad`; zero where there is no dependence."""
    found = torch.autograd.grad(scalar, wrt, allow_unused=True, retain_graph=True)[0]
    return torch.zeros_like(wrt) if found is None else found


def loss_grad(name: str, batch: LossBatch, settings: Any, wrt: Tensor | None = None) -> Tensor:
    """Gradient of the package's own loss, by default with respect to the log-probs."""
    return grad(get(name).loss(batch, settings).loss, batch.logp_NT if wrt is None else wrt)


def policy_gradient(world: World, logits: Tensor, rewards_M: Tensor) -> Tensor:
    """The gradient of J = sum_y pi(y) R(y), by differentiating the finite sum."""
    return grad((world.probability(logits) * rewards_M).sum(), logits)


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    """Assert equality up to float64 rounding."""
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
