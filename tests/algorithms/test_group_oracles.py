"""GRPO, SFT-winning and online DPO against closed forms: L1-L3, P1, P2, P4, K1-K4, D1, D3."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from world import build, close, config, grad, loss_grad, policy_gradient, rollouts, rows

from rlfamily import core
from rlfamily.algorithms import get, grpo, needs, online_dpo, sft_winning

WORLD = build(vocab=3, length=3, eos=True)
FLAT = build(vocab=4, length=1, eos=False)
NO_KL = {"coef": 0.0, "form": "k3", "place": "loss"}


def kl(form: str, place: str, coef: float = 1.0) -> dict[str, Any]:
    return {"coef": coef, "form": form, "place": place}


def settings(name: str = "grpo", **changes: Any) -> Any:
    return config(name, **{"kl": NO_KL, **changes})


@pytest.mark.parametrize("group_size", [2, 3])
def test_L2_grpo_without_scale_is_a_fraction_of_the_policy_gradient(group_size: int) -> None:
    # sums over tokens: fixed_len with max_length 1
    logits, rewards_M = WORLD.logits(0), WORLD.rewards(0)
    batch = rollouts(WORLD, logits, rewards_M, group_size)
    chosen = settings(scale_rewards="none", reduction="fixed_len", max_length=1)
    expected = policy_gradient(WORLD, logits, rewards_M) * (group_size - 1) / group_size
    close(-loss_grad("grpo", batch, chosen, logits), expected)


def test_L3_standardised_it_is_not_parallel_to_it() -> None:
    logits, rewards_M = WORLD.logits(2), WORLD.rewards(2)
    batch = rollouts(WORLD, logits, rewards_M, 3)
    found = -loss_grad("grpo", batch, settings(reduction="fixed_len", max_length=1), logits)
    exact = policy_gradient(WORLD, logits, rewards_M)
    assert 0.5 < torch.cosine_similarity(found.flatten(), exact.flatten(), dim=0) < 0.9999


def test_P1_at_ratio_one_it_is_reinforce_with_its_advantage() -> None:
    logits, rewards_M = WORLD.logits(3), WORLD.rewards(3)
    batch = rollouts(WORLD, logits, rewards_M, 2)
    advantage_N = core.group_zscore(batch.rewards_N, 2)
    for reduction, reduce in (("token_mean", core.token_mean), ("seq_mean", core.seq_mean_batch_mean)):
        plain = reduce(advantage_N[:, None] * batch.logp_NT, batch.mask_NT, batch.row_weight_N)
        close(-loss_grad("grpo", batch, settings(reduction=reduction), logits), grad(plain, logits))


def test_P2_the_clip_stops_only_what_already_went_far_enough() -> None:
    # rho = e^0.5 on the first token, 1 on the second; A = +-1/2 (group mean .5) without scale
    batch = rows([[-1.0, -1.0]] * 2, rewards=[1.0, 0.0], group_size=2, old=[[-1.5, -1.0]] * 2)
    out = grpo.loss(batch, settings(scale_rewards="none", clip=0.2))
    rho = math.exp(0.5)
    assert grad(out.loss, batch.logp_NT).flatten().tolist() == pytest.approx([0, -0.125, rho / 8, 0.125])
    assert out.metrics["clip_fraction"] == 0.25
    assert out.loss.item() == pytest.approx((-1.2 - 1 + rho + 1) / 8)


def test_P4_the_three_reductions_of_grpo() -> None:
    # advantages +1, -1 (rewards 2, 0 without scale), lengths 2 and 10, ratio 1
    mask = [[1.0] * 2 + [0.0] * 8, [1.0] * 10]
    batch = rows([[-1.0] * 10] * 2, mask, [2.0, 0.0], 2, old=[[-1.0] * 10] * 2)  # type: ignore[arg-type]
    expected = {"seq_mean": 0.0, "token_mean": 8 / 12, "fixed_len": 0.4}
    for reduction, loss in expected.items():
        found = grpo.loss(batch, settings(scale_rewards="none", reduction=reduction, max_length=10)).loss
        assert found.item() == pytest.approx(loss)


def test_grpo_hand_worked_with_a_group_that_cannot_tell() -> None:
    # rewards (3, 0, 0): mean 1, std sqrt 3; (1, 1, 1): nothing to learn
    batch = rows([[-1.0]] * 6, rewards=[3, 0, 0, 1, 1, 1], group_size=3, old=[[-1.0]] * 6)
    scale = (math.sqrt(3) + 1e-4) * 6
    found = -loss_grad("grpo", batch, settings())[:, 0]
    assert found.tolist() == pytest.approx([2 / scale, -1 / scale, -1 / scale, 0, 0, 0])


@pytest.mark.parametrize("world", [WORLD, FLAT], ids=["sequences", "one token"])
def test_K1_K2_K3_in_the_loss_of_every_group_method(world: Any) -> None:
    # rewards all equal: only the KL is left of grpo and gnivo, by whole-response sums for grpo
    logits, ref = world.logits(4), world.logits(5)
    batch = rollouts(world, logits, world.rewards(4) * 0, 2, ref=ref)
    visits_MT = world.probability(logits).detach()[:, None] * world.mask_MT

    def of_states(forward: bool) -> Tensor:
        logp_SV, ref_SV = logits.log_softmax(1), ref.detach().log_softmax(1)
        p, q = (ref_SV, logp_SV) if forward else (logp_SV, ref_SV)
        return grad((visits_MT * (p.exp() * (p - q)).sum(1)[world.state_MT]).sum(), logits)

    lengths = (visits_MT).sum()
    for form, expected in (("k1", torch.zeros_like(logits)), ("k2", of_states(False)), ("k3", of_states(True))):
        chosen = settings(kl=kl(form, "loss"), reduction="fixed_len", max_length=1)
        close(loss_grad("grpo", batch, chosen, logits), expected)
        for name in ("gnivo", "grpo"):  # the mean over tokens is the sum over the mean length
            close(loss_grad(name, batch, config(name, kl=kl(form, "loss")), logits), expected / lengths)


def test_K4_k1_in_the_reward_descends_the_reverse_kl() -> None:
    logits, ref = WORLD.logits(10), WORLD.logits(11)
    batch = rollouts(WORLD, logits, WORLD.rewards(10) * 0, 2, ref=ref)
    chosen = settings(kl=kl("k1", "reward", 0.7), scale_rewards="none", reduction="fixed_len", max_length=1)
    log_ratio_M = WORLD.sequence_logp(logits) - WORLD.sequence_logp(ref.detach())
    exact = grad((WORLD.probability(logits) * log_ratio_M).sum(), logits)
    close(loss_grad("grpo", batch, chosen, logits), 0.7 * exact / 2)  # (K - 1)/K


@pytest.mark.parametrize("name", ["gnivo", "sft_winning", "online_dpo"])
def test_a_kl_in_the_reward_is_taken_off_the_reward(name: str) -> None:
    logits, ref = WORLD.logits(10), WORLD.logits(11)
    batch = rollouts(WORLD, logits, WORLD.rewards(10), 2, ref=ref)
    penalty_N = ((batch.old_logp_NT - batch.ref_logp_NT) * batch.mask_NT).sum(1)
    by_hand = replace(batch, rewards_N=batch.rewards_N - 0.7 * penalty_N)
    close(loss_grad(name, batch, settings(name, kl=kl("k1", "reward", 0.7)), logits),
          loss_grad(name, by_hand, settings(name), logits))


def test_sft_winning_imitates_the_winner_alone() -> None:
    # winners: rows 1 (of 2 tokens) and 2 (a tie: the first; 1 token). Mean of three tokens.
    batch = rows([[-1, -1], [-2, -3], [-4, 9], [-5, 9]], [[1, 1], [1, 1], [1, 0], [1, 0]], [0, 1, 2, 2], 2,
                 ref=[[-1, -1], [-2, -2], [-4, 9], [-1, 9]])
    out = sft_winning.loss(batch, settings("sft_winning"))
    assert out.loss.item() == pytest.approx((2 + 3 + 4) / 3)
    third = pytest.approx(-1 / 3)
    assert grad(out.loss, batch.logp_NT).tolist() == [[0, 0], [third, third], [third, 0], [0, 0]]
    assert out.metrics["tie_fraction"] == 0.5 and out.metrics["reward_gain"] == 0.25
    # the KL too is taken on the winners: k2 = (0, 1/2, 0) of their three tokens
    with_kl = sft_winning.loss(batch, settings("sft_winning", kl=kl("k2", "loss", 0.6)))
    assert (with_kl.loss - out.loss).item() == pytest.approx(0.6 * 0.5 / 3)
    assert not grad(with_kl.loss, batch.logp_NT)[[0, 3]].any()


def test_sft_winning_can_leave_ties_out() -> None:
    batch = rows([[-1, -1], [-2, -3], [-4, 9], [-5, 9]], [[1, 1], [1, 1], [1, 0], [1, 0]], [0, 1, 2, 2], 2)
    out = sft_winning.loss(batch, settings("sft_winning", skip_ties=True))
    assert out.loss.item() == pytest.approx(2.5)
    assert not grad(out.loss, batch.logp_NT)[[0, 2, 3]].any()


def test_D1_online_dpo_gradient_of_a_pair_whichever_won() -> None:
    # as D1 of DPO: u = (1, -1), alpha .5: pull .5 sigmoid(-1) towards the winner
    logp, mask, ref = [[-1.0, -2.0], [-2.0, 7.0]], [[1, 1], [1, 0]], [[-1.5, -2.5], [-1.0, 3.0]]
    pull, push = 0.5 / (1 + math.e), 0.5 * math.e / (1 + math.e)
    for rewards, expected in (([1, 0], [[-pull, -pull], [pull, 0]]), ([1, 1], [[-pull, -pull], [pull, 0]]),
                              ([0, 1], [[push, push], [-push, 0]])):
        batch = rows(logp, mask, rewards, 2, ref=ref, old=[[0.0, 0.0], [0.0, 0.0]])  # type: ignore[arg-type]
        out = online_dpo.loss(batch, settings("online_dpo", alpha=0.5))
        close(grad(out.loss, batch.logp_NT), torch.tensor(expected, dtype=torch.float64))
        assert out.metrics["margin"] == pytest.approx(1 if rewards != [0, 1] else -1)
        assert out.metrics["log_ratio_gap"] == pytest.approx(2)


def test_online_dpo_against_the_policy_that_drew_the_pair() -> None:
    batch = rows([[-1.0], [-2.0]], rewards=[1, 0], group_size=2, old=[[-1.0], [-2.0]], ref=[[-7.0], [-1.0]])
    out = online_dpo.loss(batch, settings("online_dpo", alpha=0.2, dpo_ref="old"))
    assert out.loss.item() == pytest.approx(math.log(2))
    assert grad(out.loss, batch.logp_NT)[:, 0].tolist() == pytest.approx([-0.1, 0.1])


def test_online_dpo_leaves_out_what_is_no_pair() -> None:
    # a tie, and a pair with an emptied response: log 2 is left of the third, over the two that are whole
    batch = rows([[-1.0]] * 6, [[1], [1], [1], [0], [1], [1]], [1, 1, 1, 0, 1, 0], 2, ref=[[-1.0]] * 6)
    out = online_dpo.loss(batch, settings("online_dpo", skip_ties=True))
    assert out.loss.item() == pytest.approx(math.log(2) / 2)
    assert out.metrics["tie_fraction"] == pytest.approx(1 / 2)
    assert not grad(out.loss, batch.logp_NT)[:4].any()


def test_D3_online_dpo_has_no_finite_minimiser_without_its_kl() -> None:
    # along log pi = c r + const the loss only falls; with the KL it has a minimum
    ref, rewards_M = FLAT.logits(2).detach(), FLAT.rewards(2)

    def losses(settings_: Any) -> list[float]:
        found = []
        for c in (1.0, 10.0, 100.0, 1000.0):
            logits = ref.log_softmax(1) + c * rewards_M[FLAT.tokens_MT[:, 0]]
            batch = rollouts(FLAT, logits, rewards_M, 2, behaviour=ref, ref=ref)
            found.append(online_dpo.loss(batch, settings_).loss.item())
        return found

    falling = losses(settings("online_dpo", skip_ties=True))
    assert falling == sorted(falling, reverse=True)
    anchored = losses(settings("online_dpo", skip_ties=True, kl=kl("k2", "loss", 0.1)))
    assert anchored[-1] > anchored[0]


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("grpo", {}, {"old", "ref"}),
        ("grpo", {"kl": NO_KL}, {"old"}),
        ("sft_winning", {}, {"ref"}),
        ("sft_winning", {"kl": NO_KL}, set()),
        ("sft_winning", {"kl": kl("k1", "reward")}, {"old", "ref"}),
        ("online_dpo", {"kl": NO_KL}, {"ref"}),
        ("online_dpo", {"kl": NO_KL, "dpo_ref": "old"}, {"old"}),
        ("online_dpo", {"dpo_ref": "old"}, {"old", "ref"}),
    ],
)
def test_group_methods_ask_for_what_they_use(name: str, changes: dict[str, Any], expected: set[str]) -> None:
    assert needs(get(name), config(name, **changes)) == expected
