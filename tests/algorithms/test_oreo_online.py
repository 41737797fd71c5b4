"""OREO online against closed forms: R5-R7 with a value per token or step; PPO with a Monte-Carlo critic."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from critic import KL_REWARD, NO_KL, expected_to_go, mean_length, responses, some_batch, table, tilted, values_of
from torch import Tensor
from world import build, close, config, grad, loss_grad, patch_core, policy_gradient, rows

from rlfamily import core
from rlfamily.algorithms import LossBatch, get, needs, oreo_online

WORLD = build(vocab=3, length=2, eos=True)
PLAIN: dict[str, Any] = {"whiten": False, "kl": NO_KL, "alpha": 1.0, "level": "token"}
DIRECT: dict[str, Any] = {"policy_loss": "direct", "kl": NO_KL, "alpha": 0.7, "level": "token"}


def soft_values(logits: Tensor, rewards_M: Tensor, alpha: float) -> Tensor:
    """log E[exp(R/alpha) | state], (S,)."""
    return expected_to_go(WORLD, logits, (rewards_M / alpha).exp()).log()


def optimum(old: Tensor, rewards_M: Tensor, alpha: float) -> Tensor:
    """Logits of pi*: the log of pi*'s mass through each state and token."""
    target_M = tilted(WORLD, old, rewards_M, alpha)
    mass_SV = torch.zeros(WORLD.num_states, WORLD.vocab, dtype=torch.float64)
    index = (WORLD.state_MT.flatten(), WORLD.tokens_MT.flatten())
    mass_SV.index_put_(index, (target_M[:, None] * WORLD.mask_MT).flatten(), accumulate=True)
    return mass_SV.log().requires_grad_()


# ---------------------------------------------------------------------------- the critic


def test_R7_on_policy_the_critic_learns_the_mean_reward_of_each_state() -> None:
    logits, rewards_M = WORLD.logits(0), WORLD.rewards(0)
    best_S = (expected_to_go(WORLD, logits, rewards_M) / 0.7).requires_grad_()
    for policy_loss in ("ppo", "direct", "printed"):
        settings = config("oreo_online", **DIRECT | {"policy_loss": policy_loss})
        batch = responses(WORLD, logits, rewards_M, best_S)
        assert loss_grad("oreo_online", batch, settings, best_S).abs().max() < 1e-12
    assert (soft_values(logits, rewards_M, 0.7) - best_S).abs().max() > 0.1


def test_R7_it_is_ppo_with_a_monte_carlo_critic() -> None:
    logits, rewards_M, table_S = WORLD.logits(1), WORLD.rewards(1), table(WORLD, 1)
    batch = responses(WORLD, logits, rewards_M, table_S)
    ours = config("oreo_online", **PLAIN, vf_coef=0.5)
    theirs = config("ppo", whiten=False, kl=NO_KL, gamma=1.0, lam=1.0, value_clip=None, vf_coef=0.5)
    for wrt in (batch.logp_NT, table_S):
        close(loss_grad("oreo_online", batch, ours, wrt), loss_grad("ppo", batch, theirs, wrt))


def test_R5_at_the_tilted_policy_every_error_is_zero_at_the_soft_values() -> None:
    # V_t + sum_{i>=t} log pi*/pi_old = R/alpha at every state of every response
    old, rewards_M = WORLD.logits(2), WORLD.rewards(2)
    best = optimum(old, rewards_M, 0.7)
    table_S = soft_values(old, rewards_M, 0.7).requires_grad_()
    batch = responses(WORLD, best, rewards_M, table_S, behaviour=old)
    out = oreo_online.loss(batch, config("oreo_online", **DIRECT))
    assert out.metrics["value_loss"] < 1e-20
    assert grad(out.loss, batch.logp_NT).abs().max() < 1e-12
    assert grad(out.loss, table_S).abs().max() < 1e-12


# ---------------------------------------------------------------------------- the direct policy loss


def test_R6_the_direct_gradient_is_that_of_the_squared_error_of_all_states() -> None:
    old, logits, rewards_M = WORLD.logits(3), WORLD.logits(4), WORLD.rewards(3)
    table_S = table(WORLD, 3)
    batch = responses(WORLD, logits, rewards_M, table_S, behaviour=old)
    found = loss_grad("oreo_online", batch, config("oreo_online", **DIRECT), logits)
    log_ratio_MT = (WORLD.logp(logits) - WORLD.logp(old).detach()) * WORLD.mask_MT
    to_go_MT = torch.stack([log_ratio_MT[:, t:].sum(1) for t in range(2)], 1)
    error_MT = values_of(WORLD, table_S).detach() + to_go_MT - rewards_M[:, None] / 0.7
    weight_M = WORLD.probability(old).detach() / mean_length(WORLD, old)
    close(found, grad(0.7 / 2 * weight_M @ (error_MT.square() * WORLD.mask_MT).sum(1), logits))


def descend(policy_loss: str, level: str, steps: int = 150) -> tuple[float, float]:
    """Gradient descent on policy and critic together, from pi_old: largest |log-prob| and KL(pi* || pi)."""
    old, rewards_M = WORLD.logits(5), WORLD.rewards(5)
    logits = old.detach().clone().requires_grad_()
    table_S = torch.zeros(WORLD.num_states, dtype=torch.float64, requires_grad=True)
    settings = config("oreo_online", **DIRECT | {"policy_loss": policy_loss, "level": level, "vf_coef": 1.0})
    ends_MS = WORLD.mask_MT.cumsum(1).long()  # a step is a token
    for _ in range(steps):
        batch = responses(WORLD, logits, rewards_M, table_S, behaviour=old, step_ends_NS=ends_MS)
        loss = oreo_online.loss(batch, settings).loss
        with torch.no_grad():
            for leaf, gradient in zip((logits, table_S), torch.autograd.grad(loss, (logits, table_S)), strict=True):
                leaf -= gradient
    logp_M = WORLD.sequence_logp(logits).detach()
    target_M = tilted(WORLD, old, rewards_M, 0.7)
    return float(logp_M.abs().max()), float((target_M * (target_M.log() - logp_M)).sum())


@pytest.mark.parametrize("level", ["token", "step"])
def test_R6_dyn_the_corrected_loss_reaches_the_tilted_policy(level: str) -> None:
    largest, distance = descend("direct", level)
    assert largest < 20
    assert distance < 1e-2


def test_R6_dyn_the_printed_sign_diverges() -> None:
    largest, distance = descend("printed", "token")
    assert largest > 1e3 or largest != largest
    assert not distance < 10


# ---------------------------------------------------------------------------- the PPO policy loss


def test_it_is_reinforce_with_the_critic_as_baseline() -> None:
    logits, rewards_M = WORLD.logits(6), WORLD.rewards(6)
    batch = responses(WORLD, logits, rewards_M, table(WORLD, 6))
    found = -loss_grad("oreo_online", batch, config("oreo_online", **PLAIN), logits)
    close(found * mean_length(WORLD, logits), policy_gradient(WORLD, logits, rewards_M))


def test_alpha_only_scales_the_advantage() -> None:
    logits, rewards_M, table_S = WORLD.logits(7), WORLD.rewards(7), table(WORLD, 7)
    found = [
        loss_grad("oreo_online", responses(WORLD, logits, rewards_M, table_S / alpha),
                  config("oreo_online", kl=NO_KL, alpha=alpha, whiten=whiten), logits)
        for alpha, whiten in ((0.5, False), (1.0, False), (0.5, True), (1.0, True))
    ]
    close(found[0], 2 * found[1])
    close(found[2], found[3], 1e-6)  # whitened, it disappears


def stepwise() -> LossBatch:
    """Two responses of 4 and 2 tokens in steps of 1 + 3 and of 2; R/alpha = 6 and 1."""
    return rows(
        [[0, 0, 0, 0], [0, 0, 9, 9]], [[1, 1, 1, 1], [1, 1, 0, 0]], [3, 0.5], old=[[0, 0, 0, 0], [0, 0, 5, 5]],
        values_NT=torch.tensor([[1, 2, 30, 40], [3, 50, 60, 70]], dtype=torch.float64, requires_grad=True),
        step_ends_NS=torch.tensor([[1, 4], [2, 2]]),
    )


def test_the_tokens_of_a_step_share_the_advantage_of_its_first() -> None:
    # A = (6-1, 6-2, 6-2, 6-2) and (1-3, 1-3), over 6 tokens; the critic learns at three states: V - target, over 3
    settings = config("oreo_online", **PLAIN | {"level": "step", "alpha": 0.5}, vf_coef=1.0)
    batch = stepwise()
    close(loss_grad("oreo_online", batch, settings),
          -torch.tensor([[5, 4, 4, 4], [-2, -2, 0, 0]], dtype=torch.float64) / 6)
    close(loss_grad("oreo_online", batch, settings, batch.values_NT),
          torch.tensor([[-5, -4, 0, 0], [2, 0, 0, 0]], dtype=torch.float64) / 3)
    # direct: each state pulls on all tokens from its first on, by -(R - alpha V), over 3 states
    direct = config("oreo_online", **DIRECT | {"level": "step", "alpha": 0.5})
    close(loss_grad("oreo_online", batch, direct),
          -torch.tensor([[2.5, 4.5, 4.5, 4.5], [-1, -1, 0, 0]], dtype=torch.float64) / 3)


def test_steps_of_one_token_are_the_token_level() -> None:
    batch = some_batch()
    length_N1 = batch.mask_NT.sum(1, keepdim=True).long()
    single = replace(batch, step_ends_NS=torch.arange(1, 5).minimum(length_N1))
    for policy_loss in ("ppo", "direct"):
        token, step = (config("oreo_online", level=level, policy_loss=policy_loss) for level in ("token", "step"))
        for wrt in (single.logp_NT, single.values_NT):
            close(loss_grad("oreo_online", single, step, wrt), loss_grad("oreo_online", single, token, wrt))


def test_one_step_is_dro() -> None:
    batch = some_batch()
    length_N1 = batch.mask_NT.sum(1, keepdim=True).long()
    whole = replace(batch, step_ends_NS=length_N1)
    for policy_loss in ("ppo", "direct", "printed"):
        ours = config("oreo_online", level="step", policy_loss=policy_loss)
        theirs = config("dro_online", policy_loss=policy_loss)
        for wrt in (whole.logp_NT, whole.values_NT):
            close(loss_grad("oreo_online", whole, ours, wrt), loss_grad("dro_online", whole, theirs, wrt))


def test_padding_the_steps_changes_nothing() -> None:
    batch, settings = some_batch(), config("oreo_online", level="step")
    length_N1 = batch.mask_NT.sum(1, keepdim=True).long()
    wide = replace(batch, step_ends_NS=torch.cat([batch.step_ends_NS, length_N1, length_N1], 1))
    close(loss_grad("oreo_online", wide, settings), loss_grad("oreo_online", batch, settings))


def test_the_kl_of_the_whole_response_is_in_the_reward() -> None:
    # R' = 3 - 0.3*(1 + 2) = 2.1, over alpha 0.5: 4.2; A = (4.2 - 1, 4.2 - 2)
    batch = rows([[-1.0, -1.0]], rewards=[3.0], old=[[-1.0, -1.0]], ref=[[-2.0, -3.0]],
                 values_NT=torch.tensor([[1.0, 2.0]], dtype=torch.float64, requires_grad=True))
    settings = config("oreo_online", whiten=False, alpha=0.5, kl=KL_REWARD, vf_coef=1.0)
    close(loss_grad("oreo_online", batch, settings), torch.tensor([[-1.6, -1.1]], dtype=torch.float64))
    close(loss_grad("oreo_online", batch, settings, batch.values_NT), torch.tensor([[-1.6, -1.1]], dtype=torch.float64))


def test_step_ends_are_asked_for_at_step_level_only() -> None:
    for level in ("token", "step"):
        settings = config("oreo_online", level=level, kl=NO_KL)
        assert ("steps" in needs(get("oreo_online"), settings)) == (level == "step")
    with pytest.raises(ValueError, match="step_ends_NS"):
        oreo_online.loss(replace(some_batch(), step_ends_NS=None), config("oreo_online", level="step"))


# ---------------------------------------------------------------------------- wrong variants


def sums_so_far(patch: pytest.MonkeyPatch) -> None:
    patch_core(patch, "sums_to_go", lambda x_NT, mask_NT: core.masked(x_NT, mask_NT).cumsum(1))


def sums_after_the_token(patch: pytest.MonkeyPatch) -> None:
    right = core.sums_to_go
    patch_core(patch, "sums_to_go", lambda x_NT, mask_NT: right(x_NT, mask_NT) - core.masked(x_NT, mask_NT))


def own_value_for_each_token(patch: pytest.MonkeyPatch) -> None:
    right = core.step_starts

    def wrong(step_ends_NS: Tensor, mask_NT: Tensor) -> tuple[Tensor, Tensor]:
        return right(step_ends_NS, mask_NT)[0], torch.arange(mask_NT.shape[1]).expand_as(mask_NT)

    patch_core(patch, "step_starts", wrong)


def values_at_the_end_of_the_step(patch: pytest.MonkeyPatch) -> None:
    right = core.step_starts
    patch_core(patch, "step_starts", lambda ends, mask: right(ends.roll(-1, 1), mask))


def every_row_counts_alike(patch: pytest.MonkeyPatch) -> None:
    patch_core(patch, "token_mean", core.seq_mean_batch_mean)


MUTANTS = {
    "sums so far": (sums_so_far, test_R5_at_the_tilted_policy_every_error_is_zero_at_the_soft_values),
    "sums without the token": (sums_after_the_token, test_R6_the_direct_gradient_is_that_of_the_squared_error_of_all_states),
    "each token its own value": (own_value_for_each_token, test_the_tokens_of_a_step_share_the_advantage_of_its_first),
    "steps shifted": (values_at_the_end_of_the_step, test_the_tokens_of_a_step_share_the_advantage_of_its_first),
    "mean over rows of means": (every_row_counts_alike, test_it_is_reinforce_with_the_critic_as_baseline),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_variant_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate, oracle = MUTANTS[name]
    oracle()
    mutate(monkeypatch)
    with pytest.raises(AssertionError):
        oracle()
