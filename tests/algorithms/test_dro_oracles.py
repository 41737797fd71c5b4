"""DRO on logged responses against closed forms (R1): policy and value, the two gradients, what the value is for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from logs import LARGE, SMALL, start
from torch import Tensor
from world import World, close, config, grad, loss_grad, rows

from rlfamily.algorithms import dro
from rlfamily.theory import logged
from rlfamily.theory.tilting import divergence, tilted


@pytest.mark.parametrize("log", ["reference", "uniform", "other"])
def test_R1_policy_and_value_are_right_whatever_the_log(log: str) -> None:
    ref, rewards_M = start(SMALL)
    for tau in (0.2, 1.0):
        weight_M = logged.log_weights(SMALL, ref, log, 0)
        found, value = logged.learned_jointly(SMALL, ref, rewards_M, weight_M, config("dro", variant="joint", tau=tau))
        assert divergence(SMALL.probability(found), tilted(SMALL, ref, rewards_M, tau)) < 1e-12
        best = tau * (SMALL.sequence_logp(ref) + rewards_M / tau).logsumexp(0)
        assert value == pytest.approx(float(best), abs=1e-9)


def test_R1_the_mean_of_the_log_ratios_ends_elsewhere() -> None:
    ref, rewards_M = start(LARGE)
    found, _ = logged.learned_jointly(LARGE, ref, rewards_M, None, config("dro", variant="repo", tau=1.0))
    assert divergence(LARGE.probability(found), tilted(LARGE, ref, rewards_M, 1.0)) > 0.01


def some_values(world: World) -> Tensor:
    return torch.full((len(world.tokens_MT),), 0.3, dtype=torch.float64).requires_grad_()


def test_R1_separate_and_joint_gradients_differ_by_tau_alone() -> None:
    ref, rewards_M = start(LARGE)
    logits, values_M = LARGE.logits(1), some_values(LARGE)
    batch = logged.whole_log(LARGE, logits, ref, rewards_M, logged.log_weights(LARGE, ref, "other", 0),
                             prompt_values_N=values_M)
    for tau in (0.2, 3.0):
        joint, separate = (config("dro", variant=name, tau=tau) for name in ("joint", "separate"))
        close(tau * loss_grad("dro", batch, separate, logits), loss_grad("dro", batch, joint, logits))
        close(loss_grad("dro", batch, separate, values_M), loss_grad("dro", batch, joint, values_M))


@pytest.mark.parametrize("variant", ["joint", "repo"])
def test_R1_a_scale_of_all_is_a_scale_of_the_loss(variant: str) -> None:
    ref, rewards_M = start(LARGE)
    batch = logged.whole_log(LARGE, LARGE.logits(1), ref, rewards_M, None, prompt_values_N=some_values(LARGE))
    scaled = replace(batch, rewards_N=4 * batch.rewards_N, prompt_values_N=4 * some_values(LARGE))
    close(dro.loss(scaled, config("dro", variant=variant, tau=2.0)).loss,
          16 * dro.loss(batch, config("dro", variant=variant, tau=0.5)).loss)


@pytest.mark.parametrize("variant", ["joint", "separate"])
def test_R1_without_the_value_the_fixed_point_moves_unless_the_log_is_the_policys_own(variant: str) -> None:
    ref, rewards_M = start(LARGE)
    best_M = tilted(LARGE, ref, rewards_M, 0.7)
    logits, chosen = LARGE.policy(best_M).requires_grad_(), config("dro", variant=variant, tau=0.7)
    value = 0.7 * (LARGE.sequence_logp(ref) + rewards_M / 0.7).logsumexp(0)
    slope = {}
    for log, weight_M in (("other", logged.log_weights(LARGE, ref, "other", 0)), ("own", best_M)):
        for name, given in (("exact", value), ("none", torch.zeros_like(value))):
            batch = logged.whole_log(LARGE, logits, ref, rewards_M, weight_M, prompt_values_N=given.expand(7))
            slope[log, name] = float(loss_grad("dro", batch, chosen, logits).abs().max())
    assert slope.pop(("other", "none")) > 0.01
    assert max(slope.values()) < 1e-12


def test_R1_hand_worked() -> None:
    # D = 0.1 + 0.3 (its mean 0.2), r - V = 1 - 0.25, tau 2: e = -0.05 and 0.35
    batch = rows([[-0.9, -0.7]], rewards=[1.0], ref=[[-1.0, -1.0]],
                 prompt_values_N=torch.tensor([0.25], dtype=torch.float64, requires_grad=True))
    joint, apart, repo = (config("dro", variant=name, tau=2.0) for name in ("joint", "separate", "repo"))
    assert dro.loss(batch, joint).loss.item() == pytest.approx(0.05**2 / 2)
    assert dro.loss(batch, repo).loss.item() == pytest.approx(0.35**2 / 2)
    assert dro.loss(batch, apart).loss.item() == pytest.approx(0.75 * 1.6 + 0.4**2 + 0.05**2 / 2)
    assert dro.loss(batch, apart).metrics["squared_residual"] == pytest.approx(0.05**2 / 2)
    assert loss_grad("dro", batch, joint).tolist() == [pytest.approx([0.1, 0.1])]
    assert loss_grad("dro", batch, apart).tolist() == [pytest.approx([0.05, 0.05])]
    assert loss_grad("dro", batch, repo).tolist() == [pytest.approx([-0.35, -0.35])]
    assert batch.prompt_values_N is not None
    for chosen, slope in ((joint, 0.05), (apart, 0.05), (repo, -0.35)):
        assert grad(dro.loss(batch, chosen).loss, batch.prompt_values_N).item() == pytest.approx(slope)
