"""What every method that is found here must do, whoever wrote it: learn. On a world of all short responses a small step
along its loss raises the expected reward, exactly computed; a sign that is wrong is found here and nowhere sooner.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from world import build, config, grad, pairs, rollouts

from rlfamily.algorithms import get, names

WORLD = build(vocab=3, length=2, eos=True)
IMITATES = "sft_logged"  # what was logged, good and bad: from its own responses it learns nothing, as it should
LEARNING = [name for name in names() if get(name).SOURCE != "demonstrations" and name != IMITATES]
SEEDS = range(4)
STEP = 1e-3  # length of the step in the logits


def expected_reward(logits: Tensor, rewards_M: Tensor) -> float:
    return float((WORLD.probability(logits.detach()) * rewards_M).sum())


def preferences(logits: Tensor, rewards_M: Tensor) -> Any:
    """Every pair of responses, labelled as a Bradley-Terry judge of these rewards labels them."""
    probability_M = WORLD.probability(logits.detach())
    chosen_MM = probability_M[:, None] * probability_M * torch.sigmoid(3 * (rewards_M[:, None] - rewards_M))
    return pairs(WORLD, logits, logits, chosen_MM)


def responses(logits: Tensor, rewards_M: Tensor, shift: float = 0.0) -> Any:
    """Every group of two, as probable as it is, with all that a loss may ask for."""
    values_MT = torch.zeros(WORLD.mask_MT.shape, dtype=torch.float64)
    length_M1 = WORLD.mask_MT.sum(1, keepdim=True).long()
    ends_MT = (torch.arange(WORLD.mask_MT.shape[1]) + 1).minimum(length_M1)
    bare = rollouts(WORLD, logits, rewards_M + shift, 2, ref=logits)
    index_N = torch.cartesian_prod(*[torch.arange(len(rewards_M))] * 2).flatten()
    return rollouts(WORLD, logits, rewards_M + shift, 2, ref=logits, values_NT=values_MT[index_N].requires_grad_(),
                    old_values_NT=values_MT[index_N], step_ends_NS=ends_MT[index_N],
                    prompt_values_N=values_MT[index_N, 0].requires_grad_(),
                    running_reward=float(bare.rewards_N.mean()), generator=torch.Generator().manual_seed(0))


def gain(method: Any, settings: Any, seed: int) -> float:
    """By how much one step along the loss raises the expected reward."""
    logits, rewards_M = WORLD.logits(seed), WORLD.rewards(seed)
    batch = (preferences if method.SOURCE == "pairs" else responses)(logits, rewards_M)
    slope = grad(method.loss(batch, settings).loss, logits)
    assert slope.norm() > 1e-6, "the loss does not move the policy"
    return expected_reward(logits.detach() - STEP * slope / slope.norm(), rewards_M) - expected_reward(logits, rewards_M)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", LEARNING)
def test_a_small_step_along_the_loss_raises_the_expected_reward(name: str, seed: int) -> None:
    assert gain(get(name), config(name), seed) > 0


def test_imitation_of_ones_own_responses_goes_nowhere() -> None:
    logits, rewards_M = WORLD.logits(0), WORLD.rewards(0)
    slope = grad(get(IMITATES).loss(responses(logits, rewards_M), config(IMITATES)).loss, logits)
    assert slope.abs().max() < 1e-12


@pytest.mark.parametrize("name", LEARNING)
def test_the_wrong_sign_is_found(name: str) -> None:
    method = get(name)
    flipped = SimpleNamespace(SOURCE=method.SOURCE, loss=lambda batch, settings: SimpleNamespace(
        loss=-method.loss(batch, settings).loss))
    assert all(gain(flipped, config(name), seed) < 0 for seed in SEEDS)
