"""The checks of the theory stage that belong to DRO and OREO online (R5 to R7): see `checks` and `logged_checks`.

GN-IVO runs the two as baselines on the policy's own responses; what they promise is what the offline ones keep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from rlfamily.algorithms import LossBatch, dro_online, oreo_online
from rlfamily.theory.logged import NO_KL
from rlfamily.theory.tilting import divergence, minimiser, soft_values, tilted
from rlfamily.theory.world import World, drawn, grad

Row = dict[str, Any]

TAUS = (0.1, 1.0, 5.0)  # as the offline checks
STEPS, RATE = 300, 0.05  # of Adam: enough for what tau=1 asks


def _settings(method: Any, policy_loss: str, tau: float, vf_coef: float) -> Any:
    """The settings that the loss reads, without KL."""
    return method.Config.model_construct(
        policy_loss=policy_loss, alpha=tau, level="token", vf_coef=vf_coef, kl=NO_KL, whiten=False, clip=0.2)


def _batch(world: World, logits: Tensor, ref: Tensor, rewards_M: Tensor, values_MT: Tensor) -> LossBatch:
    """Every response of the reference, as probable as it is."""
    return LossBatch(world.logp(logits), world.mask_MT, rewards_M, 1, old_logp_NT=world.logp(ref), values_NT=values_MT,
                     row_weight_N=world.probability(ref))


def _fixed_point(method: Any, seed: int) -> Iterator[Row]:
    """Largest gradient at pi* and its soft values, of the corrected direct loss (R5)."""
    world, ref, rewards_M = drawn(seed, 3, 3, True)
    for tau in TAUS:
        logits = world.policy(tilted(world, ref, rewards_M, tau)).requires_grad_()
        values_MT = soft_values(world, ref, rewards_M, tau)[:, :-1].requires_grad_()
        batch = _batch(world, logits, ref, rewards_M, values_MT)
        loss = method.loss(batch, _settings(method, "direct", tau, 1.0)).loss
        yield {"tau": tau, "value": max(float(grad(loss, leaf).abs().max()) for leaf in (logits, values_MT))}


def dro_online_fixed_point(seed: int) -> Iterator[Row]:
    """See `_fixed_point`."""
    yield from _fixed_point(dro_online, seed)


def oreo_online_fixed_point(seed: int) -> Iterator[Row]:
    """See `_fixed_point`."""
    yield from _fixed_point(oreo_online, seed)


def dro_online_descent(seed: int) -> Iterator[Row]:
    """KL from pi* after 300 steps of policy and value: with the right sign, and with that of GN-IVO Eq. 11 (R6)."""
    world, ref, rewards_M = drawn(seed, 2, 3, True)
    for policy_loss in ("direct", "printed"):
        for tau in TAUS[1:]:
            logits, value = ref.clone().requires_grad_(), torch.zeros(1, dtype=torch.float64).requires_grad_()
            optimiser = torch.optim.Adam([logits, value], lr=RATE)
            for _ in range(STEPS):
                batch = _batch(world, logits, ref, rewards_M, value.expand_as(world.mask_MT))
                optimiser.zero_grad()
                dro_online.loss(batch, _settings(dro_online, policy_loss, tau, 1.0)).loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            found_M = world.probability(logits.detach())
            yield {"variant": policy_loss, "tau": tau, "value": divergence(found_M, tilted(world, ref, rewards_M, tau)),
                   "expected": 0.0 if policy_loss == "direct" else None}


def dro_online_value(seed: int) -> Iterator[Row]:
    """The value that the critic learns on the policy's own responses; beside it the soft value (R7)."""
    world, ref, rewards_M = drawn(seed, 3, 3, True)
    for tau in TAUS:
        found = minimiser(torch.ones(1, dtype=torch.float64), lambda value, tau=tau: dro_online.loss(  # type: ignore[misc]
            _batch(world, ref, ref, rewards_M, value.expand_as(world.mask_MT)),
            _settings(dro_online, "ppo", tau, 1.0)).loss)
        yield {"tau": tau, "value": float(found), "expected": float(soft_values(world, ref, rewards_M, tau)[0, 0])}


CHECKS: dict[str, Callable[[int], Iterator[Row]]] = {check.__name__: check for check in (
    dro_online_fixed_point, oreo_online_fixed_point, dro_online_descent, dro_online_value)}
