"""Tilted policies and their soft values on an enumerable world, and how a loss is minimised there.

pi*(y) = pi_old(y) exp(R(y)/alpha)/Z is the policy that GN-IVO aims at, V(y_<=t) =
log E_old[exp(R/alpha) | y_<=t] its value function (GN-IVO Eq. 2, 3, 5).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from rlfamily.theory.world import World

NEWTON_STEPS = 20  # near the minimum each doubles the digits, so that few are taken
RANK_TOLERANCE = 1e-12  # curvature, relative to the greatest, below which a direction counts as flat

def tilted(world: World, logits: Tensor, rewards_M: Tensor, alpha: float) -> Tensor:
    """pi* of every sequence, (M,)."""
    return (world.sequence_logp(logits.detach()) + rewards_M / alpha).softmax(0)


def divergence(p_M: Tensor, q_M: Tensor) -> float:
    """KL(p || q) in nats."""
    return max(0.0, float((torch.special.xlogy(p_M, p_M) - p_M * q_M.log()).sum()))  # rounding may leave -1e-16


def soft_values(world: World, logits: Tensor, rewards_M: Tensor, alpha: float) -> Tensor:
    """V of the first t tokens of every sequence, (M, T+1), t from 0 (log Z); beyond the end it stays R/alpha.

    By the Bellman recursion from the last token to the first, not by summing over sequences.
    """
    logp_SV = logits.detach().log_softmax(1)
    after_SV = torch.full_like(logp_SV, -math.inf)
    values = [rewards_M / alpha]
    for t in reversed(range(world.mask_MT.shape[1])):
        real_M = world.mask_MT[:, t] > 0
        state_M, token_M = world.state_MT[:, t], world.tokens_MT[:, t]
        after_SV[state_M[real_M], token_M[real_M]] = values[0][real_M]
        before_M = (logp_SV + after_SV)[state_M].logsumexp(1)
        values.insert(0, torch.where(real_M, before_M, values[0]))
    return torch.stack(values, 1)


def prefix_probability(world: World, probability_M: Tensor) -> Tensor:
    """Probability that a sequence begins as this one does, (M, T): summed over all that do."""
    key_MT = world.state_MT * world.vocab + world.tokens_MT
    same_MMT = (key_MT[:, None] == key_MT) & (world.mask_MT[:, None] * world.mask_MT > 0)
    mass_MT = torch.einsum("mnt,n->mt", same_MMT.double(), probability_M)
    return torch.where(world.mask_MT > 0, mass_MT, probability_M[:, None])


def minimiser(start: Tensor, objective: Callable[[Tensor], Tensor]) -> Tensor:
    """Where a smooth function is least, to float64 precision, from `start`; no gradient.

    L-BFGS until the function stops falling, which leaves about half the digits of its argument; Newton's steps give
    the rest. Directions that the function does not depend on (the constants of logits) are left alone.
    """
    x = start.detach().clone().requires_grad_()
    scale = float(objective(x).detach().abs())
    optimiser = torch.optim.LBFGS(
        [x], max_iter=150, history_size=30, tolerance_grad=1e-9, tolerance_change=1e-10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = objective(x) / scale
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return _polished(x.detach(), lambda y: objective(y) / scale)


def _polished(x: Tensor, objective: Callable[[Tensor], Tensor]) -> Tensor:
    """Newton's steps for as long as they make the gradient smaller."""
    gradient, hessian = _derivatives(x, objective)
    for _ in range(NEWTON_STEPS):
        values, vectors = torch.linalg.eigh(hessian)
        kept = values > RANK_TOLERANCE * values.max()
        along = vectors[:, kept]
        moved = x - (along @ ((along.T @ gradient) / values[kept])).view_as(x)
        moved_gradient, hessian = _derivatives(moved, objective)
        if not moved_gradient.norm() < gradient.norm():
            break
        x, gradient = moved, moved_gradient
    return x


def _derivatives(x: Tensor, objective: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Gradient, (P,), and Hessian, (P, P), with respect to all P numbers of x."""
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(objective(x), x, create_graph=True)
    rows = [torch.autograd.grad(one, x, retain_graph=True)[0].flatten() for one in gradient.flatten()]
    return gradient.detach().flatten(), torch.stack(rows)
