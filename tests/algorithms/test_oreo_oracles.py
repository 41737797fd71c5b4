"""OREO on logged responses against closed forms (R8), and EOS as an action for all that have a fixed point (X3)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from logs import LARGE, NO_KL, start
from torch import Tensor
from world import config, grad, loss_grad, rows

from rlfamily.algorithms import oreo
from rlfamily.theory import logged
from rlfamily.theory.tilting import tilted


@pytest.mark.parametrize("level", ["token", "step"])
@pytest.mark.parametrize("log", ["reference", "uniform", "other"])
def test_R8_every_error_is_zero_at_the_tilted_policy_and_its_soft_values(level: str, log: str) -> None:
    ref, rewards_M = start(LARGE)
    chosen = config("oreo", level=level, beta=0.3, kl=NO_KL)
    logits = LARGE.policy(tilted(LARGE, ref, rewards_M, 0.3)).requires_grad_()
    values_MT = logged.state_values(LARGE, ref, rewards_M, 0.3).requires_grad_()
    out = oreo.loss(logged.whole_log(LARGE, logits, ref, rewards_M, logged.log_weights(LARGE, ref, log, 0),
                                     values_NT=values_MT), chosen)
    assert out.metrics["value_loss"] < 1e-20 and out.metrics["pg_loss"] < 1e-20
    assert max(grad(out.loss, leaf).abs().max() for leaf in (logits, values_MT)) < 1e-12
    moved = oreo.loss(logged.whole_log(LARGE, logits, ref, rewards_M, None, values_NT=values_MT + 0.1), chosen)
    assert grad(moved.loss, logits).abs().max() > 1e-3


def hand(level: str, beta: float = 2.0) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and gradients of policy and values: log-ratios 1, 2, 3 | 4, values 10, 20, 30, reward 5; steps of 2 and 1."""
    values_NT = torch.tensor([[10.0, 20, 30]], dtype=torch.float64, requires_grad=True)
    batch = rows([[-1.0, -1, -1]], rewards=[5.0], ref=[[-2.0, -3, -4]], values_NT=values_NT,
                 step_ends_NS=torch.tensor([[2, 3]]))
    loss = oreo.loss(batch, config("oreo", level=level, beta=beta, kl=NO_KL)).loss
    return loss.detach(), grad(loss, batch.logp_NT), grad(loss, values_NT)


def test_R8_a_token_carries_the_gradient_of_its_own_state_only() -> None:
    # errors V_t + 2 (1+2+3, 2+3, 3) - 5 = 17, 25, 31, means over three states
    loss, policy_NT, value_NT = hand("token")
    assert loss.item() == pytest.approx(2 * (17**2 + 25**2 + 31**2) / 3)
    assert policy_NT.tolist() == [pytest.approx([2 * 2 * e / 3 for e in (17, 25, 31)])]
    assert value_NT.tolist() == [pytest.approx([2 * e / 3 for e in (17, 25, 31)])]


def test_R8_a_step_carries_the_gradient_of_its_own_state_only() -> None:
    # states before tokens 0 and 2: errors 17 and 31, means over two
    loss, policy_NT, value_NT = hand("step")
    assert loss.item() == pytest.approx(17**2 + 31**2)
    assert policy_NT.tolist() == [pytest.approx([2 * 17, 2 * 17, 2 * 31])]
    assert value_NT.tolist() == [pytest.approx([17, 0, 31])]


def test_R8_the_kl_to_the_reference_is_a_token_mean() -> None:
    batch = rows([[-1.0, -1.0]], rewards=[0.0], ref=[[-2.0, -3.0]],
                 values_NT=torch.zeros(1, 2, dtype=torch.float64, requires_grad=True))
    with_kl, without = (oreo.loss(batch, config("oreo", kl=NO_KL | {"coef": coef})).loss for coef in (0.5, 0.0))
    k3 = (torch.tensor([-1.0, -2.0]).exp() - 1 + torch.tensor([1.0, 2.0])).mean()
    assert (with_kl - without).item() == pytest.approx(0.5 * k3.item(), rel=1e-6)


# ---------------------------------------------------------------------------- X3: EOS is an action

FIXED: dict[str, dict[str, Any]] = {
    "rpo": {"partition": "mc", "log_ratio": "sum", "tau": 0.7}, "dro": {"variant": "joint", "tau": 0.7},
    "oreo": {"level": "token", "beta": 0.7, "kl": NO_KL}}


@pytest.mark.parametrize("name", FIXED)
def test_X3_without_eos_the_fixed_point_is_another(name: str) -> None:
    ref, rewards_M = start(LARGE)
    logits = LARGE.policy(tilted(LARGE, ref, rewards_M, 0.7)).requires_grad_()
    values_MT = logged.state_values(LARGE, ref, rewards_M, 0.7)
    batch = logged.whole_log(LARGE, logits, ref, rewards_M, LARGE.probability(ref), values_NT=values_MT,
                             prompt_values_N=values_MT[:, 0])
    last_M1 = LARGE.mask_MT.sum(1, keepdim=True) - 1
    ends_MT = (LARGE.tokens_MT == 0) & (torch.arange(2) == last_M1)
    without = replace(batch, mask_NT=LARGE.mask_MT * ~ends_MT)
    assert loss_grad(name, batch, config(name, **FIXED[name]), logits).abs().max() < 1e-12
    assert loss_grad(name, without, config(name, **FIXED[name]), logits).abs().max() > 0.01
