"""DRO online against closed forms: R5 (the critic's fixed points), R6 (the direct loss and its misprint), R7."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from critic import KL_REWARD, NO_KL, mean_length, responses, some_batch, table, tilted
from torch import Tensor
from world import build, close, config, grad, loss_grad, patch_core, policy_gradient, rows

from rlfamily import core
from rlfamily.algorithms import dro_online

WORLD = build(vocab=3, length=2, eos=True)
PLAIN: dict[str, Any] = {"whiten": False, "kl": NO_KL, "alpha": 1.0}
DIRECT: dict[str, Any] = {"policy_loss": "direct", "kl": NO_KL, "alpha": 0.7}


def soft_value(logits: Tensor, rewards_M: Tensor, alpha: float) -> Tensor:
    """log E[exp(R/alpha)], a scalar."""
    return (WORLD.sequence_logp(logits).detach() + rewards_M / alpha).logsumexp(0)


def prompt_table(value: Tensor) -> Tensor:
    """A table whose first state (the prompt) has this value and whose others have nonsense."""
    table_S = torch.full((WORLD.num_states,), 9.0, dtype=torch.float64)
    table_S[0] = value
    return table_S.requires_grad_()


# ---------------------------------------------------------------------------- the critic


@pytest.mark.parametrize("policy_loss", ["ppo", "direct", "printed"])
def test_R7_on_policy_the_critic_learns_the_mean_reward(policy_loss: str) -> None:
    logits, rewards_M = WORLD.logits(0), WORLD.rewards(0)
    settings = config("dro_online", **DIRECT | {"policy_loss": policy_loss})
    mean = (WORLD.probability(logits).detach() @ rewards_M) / 0.7
    table_S = prompt_table(mean)
    batch = responses(WORLD, logits, rewards_M, table_S)
    assert loss_grad("dro_online", batch, settings, table_S).abs().max() < 1e-12
    assert (soft_value(logits, rewards_M, 0.7) - mean) > 0.1  # which is not the soft value
    # the value's gradient is vf_coef (V - target), and no other state has one
    table_S = prompt_table(mean + 2)
    found = loss_grad("dro_online", responses(WORLD, logits, rewards_M, table_S), settings, table_S)
    close(found, torch.nn.functional.pad(torch.tensor([2 * 0.1], dtype=torch.float64), (0, WORLD.num_states - 1)))


def test_R5_at_the_tilted_policy_every_error_is_zero_at_the_soft_value() -> None:
    # log pi*/pi_old = R/alpha - log Z for every response: with v = log Z nothing is left to learn
    old, rewards_M = WORLD.logits(1), WORLD.rewards(1)
    best = optimum(old, rewards_M, 0.7)
    table_S = prompt_table(soft_value(old, rewards_M, 0.7))
    batch = responses(WORLD, best, rewards_M, table_S, behaviour=old)
    out = dro_online.loss(batch, config("dro_online", **DIRECT))
    assert out.metrics["value_loss"] < 1e-20
    assert grad(out.loss, batch.logp_NT).abs().max() < 1e-12
    assert grad(out.loss, table_S).abs().max() < 1e-12
    wrong = prompt_table(soft_value(old, rewards_M, 0.7) * 0.7)
    out = dro_online.loss(responses(WORLD, best, rewards_M, wrong, behaviour=old), config("dro_online", **DIRECT))
    assert out.metrics["value_loss"] > 1e-3


def optimum(old: Tensor, rewards_M: Tensor, alpha: float) -> Tensor:
    """Logits of pi*: the log of pi*'s mass through each state and token."""
    target_M = tilted(WORLD, old, rewards_M, alpha)
    mass_SV = torch.zeros(WORLD.num_states, WORLD.vocab, dtype=torch.float64)
    index = (WORLD.state_MT.flatten(), WORLD.tokens_MT.flatten())
    mass_SV.index_put_(index, (target_M[:, None] * WORLD.mask_MT).flatten(), accumulate=True)
    return mass_SV.log().requires_grad_()


# ---------------------------------------------------------------------------- the direct policy loss


def test_R6_the_direct_gradient_is_that_of_the_squared_error() -> None:
    old, logits, rewards_M = WORLD.logits(2), WORLD.logits(3), WORLD.rewards(2)
    table_S = table(WORLD, 2)
    batch = responses(WORLD, logits, rewards_M, table_S, behaviour=old)
    found = loss_grad("dro_online", batch, config("dro_online", **DIRECT), logits)
    log_ratio_M = WORLD.sequence_logp(logits) - WORLD.sequence_logp(old).detach()
    error_M = table_S[0].detach() + log_ratio_M - rewards_M / 0.7
    close(found, grad(0.7 / 2 * WORLD.probability(old).detach() @ error_M.square(), logits))


def test_R6_what_is_printed_has_the_other_sign_and_no_alpha() -> None:
    batch = some_batch()
    found = loss_grad("dro_online", batch, config("dro_online", **DIRECT | {"policy_loss": "printed"}))
    log_ratio_N1 = core.log_ratios(batch.logp_NT, batch.old_logp_NT, batch.mask_NT).sum(1, keepdim=True).detach()
    slope_N1 = batch.values_NT.detach()[:, :1] - batch.rewards_N[:, None] - 0.7 * log_ratio_N1
    weight_N1 = batch.row_weight_N[:, None] / batch.row_weight_N.sum()
    close(found, weight_N1 * slope_N1 * batch.mask_NT)


def descend(policy_loss: str, steps: int, alpha: float = 0.7) -> tuple[float, float]:
    """Gradient descent on policy and critic together, from pi_old: largest |log-prob| and KL(pi* || pi)."""
    old, rewards_M = WORLD.logits(4), WORLD.rewards(4)
    logits = old.detach().clone().requires_grad_()
    table_S = torch.zeros(WORLD.num_states, dtype=torch.float64, requires_grad=True)
    settings = config("dro_online", **DIRECT | {"policy_loss": policy_loss, "alpha": alpha, "vf_coef": 1.0})
    for _ in range(steps):
        batch = responses(WORLD, logits, rewards_M, table_S, behaviour=old)
        loss = dro_online.loss(batch, settings).loss
        with torch.no_grad():
            for leaf, gradient in zip((logits, table_S), torch.autograd.grad(loss, (logits, table_S)), strict=True):
                leaf -= gradient
    logp_M = WORLD.sequence_logp(logits).detach()
    target_M = tilted(WORLD, old, rewards_M, alpha)
    return float(logp_M.abs().max()), float((target_M * (target_M.log() - logp_M)).sum())


def test_R6_dyn_the_corrected_loss_reaches_the_tilted_policy() -> None:
    largest, distance = descend("direct", 120)
    assert largest < 20
    assert distance < 1e-3


def test_R6_dyn_the_printed_sign_diverges() -> None:
    largest, distance = descend("printed", 120)
    assert largest > 1e3 or largest != largest
    assert not distance < 10


def test_R6_dyn_the_missing_alpha_alone_ends_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_alpha(monkeypatch)
    largest, distance = descend("direct", 120)
    assert largest < 20
    assert distance > 0.05


# ---------------------------------------------------------------------------- the PPO policy loss


def test_it_is_reinforce_with_the_critic_as_baseline() -> None:
    # alpha 1, no whitening, ratio 1: the baseline changes no expectation, a token mean divides by E[length]
    logits, rewards_M = WORLD.logits(5), WORLD.rewards(5)
    batch = responses(WORLD, logits, rewards_M, table(WORLD, 5))
    found = -loss_grad("dro_online", batch, config("dro_online", **PLAIN), logits)
    close(found * mean_length(WORLD, logits), policy_gradient(WORLD, logits, rewards_M))
    per_token = -loss_grad("dro_online", batch, config("dro_online", **PLAIN))
    advantage_M1 = (rewards_M - batch.values_NT.detach()[:, 0])[:, None]
    weight_M1 = WORLD.probability(logits).detach()[:, None] / mean_length(WORLD, logits)
    close(per_token, weight_M1 * advantage_M1 * WORLD.mask_MT)


def test_R7_whitened_alpha_disappears_once_the_critic_has_learnt() -> None:
    logits, rewards_M = WORLD.logits(6), WORLD.rewards(6)
    mean = WORLD.probability(logits).detach() @ rewards_M
    found = [
        loss_grad("dro_online", responses(WORLD, logits, rewards_M, prompt_table(mean / alpha)),
                  config("dro_online", kl=NO_KL, alpha=alpha), logits)
        for alpha in (0.2, 1.0)
    ]
    close(found[0], found[1], 1e-6)


def test_the_kl_of_the_whole_response_is_in_the_reward() -> None:
    # R = 3, sum_t k1(old, ref) = 1 + 2 = 3: R' = 3 - 0.3*3 = 2.1; alpha 0.5, v = 1: A = 4.2 - 1 = 3.2
    batch = rows([[-1.0, -1.0]], rewards=[3.0], old=[[-1.0, -1.0]], ref=[[-2.0, -3.0]],
                 values_NT=torch.ones(1, 2, dtype=torch.float64, requires_grad=True))
    settings = config("dro_online", whiten=False, alpha=0.5, kl=KL_REWARD, vf_coef=1.0)
    close(loss_grad("dro_online", batch, settings), torch.tensor([[-1.6, -1.6]], dtype=torch.float64))
    close(loss_grad("dro_online", batch, settings, batch.values_NT), torch.tensor([[-3.2, 0]], dtype=torch.float64))


def test_the_clip_stops_the_policy() -> None:
    batch = rows([[-1.0], [-1.0]], rewards=[1.0, -1.0], old=[[-1.5], [-1.5]],
                 values_NT=torch.zeros(2, 1, dtype=torch.float64))
    out = dro_online.loss(batch, config("dro_online", **PLAIN, vf_coef=0.0))
    close(grad(out.loss, batch.logp_NT), torch.tensor([[0.0], [0.5]], dtype=torch.float64).mul(torch.tensor(0.5).double().exp()))
    assert out.metrics["clip_fraction"] == 0.5


def test_advantages_stay_while_a_batch_is_reused() -> None:
    batch = some_batch()
    moved = replace(batch, values_NT=(batch.values_NT.detach() + 5).requires_grad_())
    close(loss_grad("dro_online", moved, config("dro_online")), loss_grad("dro_online", batch, config("dro_online")))


# ---------------------------------------------------------------------------- wrong variants


def gradient_into_the_critic(patch: pytest.MonkeyPatch) -> None:
    patch_core(patch, "soft_bellman_loss", lambda log_ratio_N, value_N, rewards_N, alpha, form: (
        (alpha * value_N - rewards_N) * log_ratio_N + alpha / 2 * log_ratio_N.square()))


def forget_alpha(patch: pytest.MonkeyPatch) -> None:
    patch_core(patch, "soft_bellman_loss", lambda log_ratio_N, value_N, rewards_N, alpha, form: (
        (value_N.detach() - rewards_N) * log_ratio_N + alpha / 2 * log_ratio_N.square()))


def value_of_the_last_state(patch: pytest.MonkeyPatch) -> None:
    right = core.critic_values
    patch_core(patch, "critic_values", lambda *given: tuple(values_NT.flip(1) for values_NT in right(*given)))


def mean_log_ratio(patch: pytest.MonkeyPatch) -> None:
    right = core.log_ratios
    patch_core(patch, "log_ratios", lambda logp, other, mask: right(logp, other, mask) / mask.sum(1, keepdim=True))


MUTANTS = {
    "gradient of the policy loss into the critic": (
        gradient_into_the_critic, test_R5_at_the_tilted_policy_every_error_is_zero_at_the_soft_value),
    "no alpha on the value": (forget_alpha, test_R6_the_direct_gradient_is_that_of_the_squared_error),
    "value of another state": (value_of_the_last_state, lambda: test_R7_on_policy_the_critic_learns_the_mean_reward("ppo")),
    "mean instead of sum": (mean_log_ratio, test_R6_the_direct_gradient_is_that_of_the_squared_error),
    "mean instead of sum, at the optimum": (
        mean_log_ratio, test_R5_at_the_tilted_policy_every_error_is_zero_at_the_soft_value),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_variant_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate, oracle = MUTANTS[name]
    oracle()
    mutate(monkeypatch)
    with pytest.raises(AssertionError):
        oracle()
