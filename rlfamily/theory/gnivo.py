"""GN-IVO's statements as numbers, from the package's own loss on exact expectations (GN-IVO sec. 3, App. A)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlfamily.algorithms import LossBatch, gnivo
from rlfamily.algorithms.settings import Kl
from rlfamily.theory.tilting import minimiser
from rlfamily.theory.world import Groups, World, unordered_groups


def settings(**changes: Any) -> gnivo.Config:
    """The settings that the loss reads, at the paper's Eq. 9 without KL; those of a run have no meaning here."""
    plain: dict[str, Any] = {
        "variant": "sequential", "weights": "unnormalised", "shift": "none", "sampled_t": "all", "t_mode": "group_max",
        "kl": Kl(coef=0.0, form="k3", place="loss"),
    }
    return gnivo.Config.model_construct(**(plain | changes))


def learned_values(
    world: World, old_logits: Tensor, rewards_M: Tensor, group_size: int, config: gnivo.Config
) -> Tensor:
    """The free function of prefixes that minimises Eq. 7, (M, T): V up to a constant for each t (Theorem 3.2).

    The loss reads log-ratios of prefixes only, so log-probs that are no policy's can stand for any values.
    """
    old_MT = world.logp(old_logits.detach())
    groups = unordered_groups(world.probability(old_logits.detach()), group_size)

    def objective(values_SV: Tensor) -> Tensor:
        values_MT = values_SV[world.state_MT, world.tokens_MT]
        steps_MT = values_MT - torch.nn.functional.pad(values_MT[:, :-1], (1, 0))
        return gnivo.loss(groups.batch(world, old_MT + steps_MT, old_MT, rewards_M), config).loss

    found_SV = minimiser(torch.zeros_like(old_logits), objective)
    return found_SV[world.state_MT, world.tokens_MT]


def learned_policy(
    world: World, old_logits: Tensor, rewards_M: Tensor, groups: Groups, config: gnivo.Config
) -> Tensor:
    """Logits of the policy that minimises the loss on these groups, (S, V)."""
    old_MT = world.logp(old_logits.detach())
    return minimiser(old_logits, lambda logits: gnivo.loss(
        groups.batch(world, world.logp(logits), old_MT, rewards_M), config).loss)


def learned_policy_in_batches(
    world: World, old_logits: Tensor, rewards_M: Tensor, group_size: int, config: gnivo.Config
) -> Tensor:
    """The same where a batch is two independent groups: for weights that look at the other groups of the batch."""
    old_MT = world.logp(old_logits.detach())
    groups = unordered_groups(world.probability(old_logits.detach()), group_size)

    def objective(logits: Tensor) -> Tensor:
        logp_MT, total = world.logp(logits), torch.zeros((), dtype=torch.float64)
        for weight, both in group_pairs(groups):
            total = total + weight * gnivo.loss(both.batch(world, logp_MT, old_MT, rewards_M), config).loss
        return total

    return minimiser(old_logits, objective)


def group_pairs(groups: Groups) -> list[tuple[Tensor, Groups]]:
    """Every batch of two independent groups, with its probability."""
    index_BK = groups.index_N.view(-1, groups.size)
    equal_B = torch.ones(2, dtype=torch.float64)
    return [
        (weight * other_weight, Groups(groups.size, torch.cat([index_K, other_K]), equal_B))
        for index_K, weight in zip(index_BK, groups.weight_B, strict=True)
        for other_K, other_weight in zip(index_BK, groups.weight_B, strict=True)
    ]


def policy_of_values(world: World, old_logits: Tensor, values_MT: Tensor) -> Tensor:
    """Logits of pi(y_t | y_<t) ~ pi_old(y_t | y_<t) exp V(y_<=t), the policy that values stand for, (S, V)."""
    values_SV = torch.zeros_like(old_logits)
    real_MT = world.mask_MT > 0
    values_SV[world.state_MT[real_MT], world.tokens_MT[real_MT]] = values_MT[real_MT]
    return old_logits.detach().log_softmax(1) + values_SV


def deviation(found_MT: Tensor, expected_MT: Tensor) -> float:
    """Largest difference from `expected` up to a constant for each t."""
    difference_MT = found_MT - expected_MT
    return float(((difference_MT.amax(0) - difference_MT.amin(0)) / 2).max())


def random_group(length: int, group_size: int, copies: int, seed: int) -> LossBatch:
    """One group of full-length responses some way from ratio 1, as many times as asked."""
    generator = torch.Generator().manual_seed(seed)
    old_KT, move_KT = torch.randn(2, group_size, length, generator=generator, dtype=torch.float64)
    rewards_K = torch.rand(group_size, generator=generator, dtype=torch.float64)
    old_NT = old_KT.repeat(copies, 1)
    return LossBatch((old_KT + 0.2 * move_KT).repeat(copies, 1).requires_grad_(), torch.ones_like(old_NT),
                     rewards_K.repeat(copies), group_size, old_logp_NT=old_NT)
