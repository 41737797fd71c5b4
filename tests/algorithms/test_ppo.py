"""PPO against closed forms: P1-P3, GAE by hand, clips, whitening; and wrong variants that they catch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from critic import (
    KL_REWARD,
    NO_KL,
    expected_to_go,
    mean_length,
    responses,
    some_batch,
    table,
    values_of,
)
from torch import Tensor
from world import build, close, config, grad, loss_grad, patch_core, policy_gradient, rows

from rlfamily import core
from rlfamily.algorithms import ppo

WORLD = build(vocab=3, length=3, eos=True)
PLAIN: dict[str, Any] = {"whiten": False, "kl": NO_KL, "gamma": 1.0, "lam": 1.0, "value_clip": None}


def nil() -> Tensor:
    return torch.zeros(WORLD.num_states, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("critic", ["zero", "random"])
def test_P1_at_ratio_one_it_is_reinforce_whatever_the_critic(critic: str) -> None:
    # a token mean divides by the expected length; a value of the state is a baseline, which changes no expectation
    logits, rewards_M = WORLD.logits(0), WORLD.rewards(0)
    batch = responses(WORLD, logits, rewards_M, nil() if critic == "zero" else table(WORLD, 0))
    found = -loss_grad("ppo", batch, config("ppo", **PLAIN), logits) * mean_length(WORLD, logits)
    close(found, policy_gradient(WORLD, logits, rewards_M))


def test_P1_with_the_kl_in_the_reward_it_also_descends_the_reverse_kl() -> None:
    logits, rewards_M, ref = WORLD.logits(1), WORLD.rewards(1), WORLD.logits(2)
    batch = responses(WORLD, logits, rewards_M, table(WORLD, 1), ref=ref)
    found = -loss_grad("ppo", batch, config("ppo", **PLAIN | {"kl": KL_REWARD}), logits)
    log_ratio_M = WORLD.sequence_logp(logits) - WORLD.sequence_logp(ref.detach())
    objective = (WORLD.probability(logits) * (rewards_M - 0.3 * log_ratio_M)).sum()
    close(found * mean_length(WORLD, logits), grad(objective, logits))


def test_P1_every_token_is_weighed_by_what_comes_after_it() -> None:
    # V = 0, lam = gamma = 1: A_t = R - coef sum_{i >= t} (log old - log ref)_i, not the whole response's
    batch = rows(
        [[-1.0, -2.0, 7.0]], [[1, 1, 0]], [3.0], old=[[-1.0, -2.0, 7.0]], ref=[[-2.0, -1.0, 7.0]],
        values_NT=torch.zeros(1, 3, dtype=torch.float64),
    )
    found = loss_grad("ppo", batch, config("ppo", **PLAIN | {"kl": KL_REWARD}))
    close(found, -torch.tensor([[3 - 0.3 * (1 - 1), 3 + 0.3, 0]], dtype=torch.float64) / 2)


def test_P2_the_clip_stops_only_what_already_went_far_enough() -> None:
    # rho = e^0.5 = 1.65, V = 0, A = R = (+1, -1): above 1.2 the first has no gradient left
    batch = rows([[-1.0], [-1.0]], rewards=[1.0, -1.0], old=[[-1.5], [-1.5]],
                 values_NT=torch.zeros(2, 1, dtype=torch.float64))
    out = ppo.loss(batch, config("ppo", **PLAIN, clip=0.2, vf_coef=0.0))
    rho = torch.tensor(0.5, dtype=torch.float64).exp()
    close(grad(out.loss, batch.logp_NT), torch.stack([rho * 0, rho / 2])[:, None])
    close(out.loss.detach(), (rho - 1.2) / 2)
    assert out.metrics["clip_fraction"] == 0.5


def test_P3_with_gamma_and_lam_one_the_target_is_the_monte_carlo_return() -> None:
    logits, rewards_M = WORLD.logits(3), WORLD.rewards(3)
    best_S = expected_to_go(WORLD, logits, rewards_M).requires_grad_()
    settings = config("ppo", **PLAIN)
    for old_table in (nil(), table(WORLD, 3)):
        batch = responses(WORLD, logits, rewards_M, best_S, old_table=old_table)
        close(loss_grad("ppo", batch, settings, best_S), torch.zeros_like(best_S))
        # and each sample's pull is V - R, whatever the first values were
        errors_MT = WORLD.mask_MT * (values_of(WORLD, best_S).detach() - rewards_M[:, None])
        weight_M1 = WORLD.probability(logits).detach()[:, None] / mean_length(WORLD, logits)
        close(loss_grad("ppo", batch, settings, batch.values_NT), settings.vf_coef * weight_M1 * errors_MT)


def test_with_lam_zero_the_target_is_the_next_value() -> None:
    logits, rewards_M, old = WORLD.logits(4), WORLD.rewards(4), table(WORLD, 4)
    batch = responses(WORLD, logits, rewards_M, table(WORLD, 5), old_table=old)
    out = ppo.loss(batch, config("ppo", **PLAIN | {"lam": 0.0, "gamma": 0.5}))
    value_MT = values_of(WORLD, old).detach() * WORLD.mask_MT
    target_MT = 0.5 * torch.nn.functional.pad(value_MT[:, 1:], (0, 1)) + core.at_last_token(rewards_M, WORLD.mask_MT)
    error_MT = WORLD.mask_MT * (batch.values_NT.detach() - target_MT).square() / 2
    expected = (WORLD.probability(logits).detach() @ error_MT.sum(1)) / mean_length(WORLD, logits)
    assert out.metrics["value_loss"] == pytest.approx(float(expected))


def test_gae_by_hand() -> None:
    # gamma = lam = 1/2, r = (0, 2) and (4), V = (1, 3) and (5), garbage behind
    # row 1: delta_1 = 2 - 3 = -1, delta_0 = 0 + 3/2 - 1 = 1/2, A_0 = 1/2 - 1/4 = 1/4.  row 2: delta_0 = 4 - 5 (not + V_pad)
    mask_NT = torch.tensor([[1.0, 1, 0], [1, 0, 0]])
    rewards_NT = core.at_last_token(torch.tensor([2.0, 4.0]), mask_NT)
    assert rewards_NT.tolist() == [[0, 2, 0], [4, 0, 0]]
    values_NT = torch.tensor([[1.0, 3, 100], [5, 100, float("nan")]])
    found = core.generalized_advantages(rewards_NT, values_NT, mask_NT, 0.5, 0.5)
    assert found.tolist() == [[0.25, -1, 0], [-1, 0, 0]]


def test_the_value_clip_by_hand() -> None:
    # V_old = 0, ret = 1, clip 0.2. V = 0.1 is inside: (0.9)^2/2, pull V - ret. V = 0.9 went too far towards ret:
    # max((0.1)^2, (0.8)^2)/2 with no pull. V = -0.9 went away: max((1.9)^2, (1.2)^2)/2, pull V - ret.
    values_N = torch.tensor([0.1, 0.9, -0.9], dtype=torch.float64, requires_grad=True)
    zero_N = torch.zeros(3, dtype=torch.float64)
    error_N = core.clipped_value_error(values_N, zero_N, zero_N + 1, 0.2)
    assert error_N.tolist() == pytest.approx([0.405, 0.32, 1.805])
    assert grad(error_N.sum(), values_N).tolist() == pytest.approx([-0.9, 0, -1.9])


def test_advantages_stay_while_a_batch_is_reused() -> None:
    batch = some_batch()
    moved = replace(batch, values_NT=(batch.values_NT.detach() + 5).requires_grad_())
    settings = config("ppo")
    close(loss_grad("ppo", moved, settings), loss_grad("ppo", batch, settings))
    first = replace(batch, old_values_NT=batch.old_values_NT + torch.rand(6, 4, dtype=torch.float64))
    assert (loss_grad("ppo", first, settings) - loss_grad("ppo", batch, settings)).abs().max() > 1e-3


def test_whitened_advantages_have_mean_zero_and_variance_one() -> None:
    batch = some_batch()
    x_NT = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3 + 1
    white_NT = core.whiten(x_NT, batch.mask_NT, batch.row_weight_N)
    close(core.token_mean(white_NT, batch.mask_NT, batch.row_weight_N), torch.zeros((), dtype=torch.float64), 1e-9)
    close(core.token_mean(white_NT.square(), batch.mask_NT, batch.row_weight_N), torch.ones((), dtype=torch.float64), 1e-6)
    assert not white_NT[batch.mask_NT == 0].any()
    assert not core.whiten(torch.ones_like(x_NT), batch.mask_NT, None).any()


def test_whitening_takes_away_the_scale_of_the_reward() -> None:
    logits, rewards_M = WORLD.logits(6), WORLD.rewards(6)
    settings = config("ppo", **PLAIN | {"whiten": True})
    first, second = (
        loss_grad("ppo", responses(WORLD, logits, rewards_M * scale, nil()), settings, logits) for scale in (1.0, 7.0)
    )
    close(first, second, 1e-6)


def test_the_kl_in_the_loss_is_added() -> None:
    batch = some_batch()
    for form in ("k1", "k2", "k3"):
        pull = {"coef": 0.3, "form": form, "place": "loss"}
        with_kl, without = (ppo.loss(batch, config("ppo", kl=kl)).loss for kl in (pull, NO_KL))
        k_NT = core.kl_per_token(core.log_ratios(batch.logp_NT, batch.ref_logp_NT, batch.mask_NT), form)
        expected = 0.3 * core.token_mean(k_NT, batch.mask_NT, batch.row_weight_N)
        close((with_kl - without).detach(), expected.detach())


def test_more_than_one_response_per_prompt_changes_nothing() -> None:
    batch = some_batch()
    settings = config("ppo", group_size=2)
    close(loss_grad("ppo", replace(batch, group_size=2), settings), loss_grad("ppo", batch, config("ppo")))


# ---------------------------------------------------------------------------- wrong variants


def values_of_pads(patch: pytest.MonkeyPatch) -> None:
    right = core.generalized_advantages
    patch_core(patch, "generalized_advantages", lambda r, v, m, g, lam: right(
        r, v, torch.ones_like(m), g, lam))
    patch_core(patch, "critic_values", lambda values_NT, old_values_NT, mask_NT: (
        values_NT, (values_NT if old_values_NT is None else old_values_NT).detach()))


def reward_on_the_first_token(patch: pytest.MonkeyPatch) -> None:
    patch_core(patch, "at_last_token", lambda x_N, mask_NT: torch.nn.functional.pad(
        x_N[:, None], (0, mask_NT.shape[1] - 1)))


def values_after_the_token(patch: pytest.MonkeyPatch) -> None:
    right = core.generalized_advantages
    patch_core(patch, "generalized_advantages", lambda r, v, m, g, lam: right(
        r, torch.nn.functional.pad(v[:, 1:], (0, 1)), m, g, lam))


def maximum_is_minimum(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch, "maximum", torch.minimum)


def kl_of_the_whole_response(patch: pytest.MonkeyPatch) -> None:
    right = core.kl_in_reward
    patch_core(patch, "kl_in_reward", lambda kl, old, ref, mask: core.at_last_token(
        right(kl, old, ref, mask).sum(1), mask))


def row_weights_ignored(patch: pytest.MonkeyPatch) -> None:
    right = core.token_mean
    patch_core(patch, "token_mean", lambda x, mask, weight: right(x, mask, None))


MUTANTS = {
    "values of pads": (values_of_pads, test_with_lam_zero_the_target_is_the_next_value),
    "reward on the first token": (reward_on_the_first_token, test_P1_every_token_is_weighed_by_what_comes_after_it),
    "values after the token": (values_after_the_token, lambda: test_P1_at_ratio_one_it_is_reinforce_whatever_the_critic("random")),
    "the clip takes the minimum": (maximum_is_minimum, test_P2_the_clip_stops_only_what_already_went_far_enough),
    "the value clip takes the minimum": (maximum_is_minimum, test_the_value_clip_by_hand),
    "the KL at the end": (kl_of_the_whole_response, test_P1_every_token_is_weighed_by_what_comes_after_it),
    "row weights ignored": (row_weights_ignored, lambda: test_P1_at_ratio_one_it_is_reinforce_whatever_the_critic("zero")),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_variant_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate, oracle = MUTANTS[name]
    oracle()
    mutate(monkeypatch)
    with pytest.raises(AssertionError):
        oracle()
