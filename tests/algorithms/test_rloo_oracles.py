"""RLOO against closed forms:

L1-L3, P1, P2, K1-K4. The batch is every group of a small world, weighted exactly.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from world import World, build, close, config, grad, loss_grad, policy_gradient, rollouts, rows

from rlfamily import core
from rlfamily.algorithms import get, needs, rloo

WORLD = build(vocab=3, length=3, eos=True)  # 15 sequences
FLAT = build(vocab=4, length=1, eos=False)  # one token: a response is a state's action


def kl(form: str, place: str, coef: float = 1.0) -> dict[str, Any]:
    return {"coef": coef, "form": form, "place": place}


@pytest.mark.parametrize("group_size", [2, 3])
def test_L1_expected_gradient_is_the_policy_gradient(group_size: int) -> None:
    logits, rewards_M = WORLD.logits(0), WORLD.rewards(0)
    batch = rollouts(WORLD, logits, rewards_M, group_size)
    close(
        -loss_grad("rloo", batch, config("rloo"), logits), policy_gradient(WORLD, logits, rewards_M)
    )


@pytest.mark.parametrize("group_size", [2, 3])
def test_L2_a_mean_that_includes_self_gives_a_fraction_of_it(
    group_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, rewards_M = WORLD.logits(1), WORLD.rewards(1)
    batch = rollouts(WORLD, logits, rewards_M, group_size)
    monkeypatch.setattr(core, "group_leave_one_out", core.group_center)
    expected = policy_gradient(WORLD, logits, rewards_M) * (group_size - 1) / group_size
    close(-loss_grad("rloo", batch, config("rloo"), logits), expected)


def test_L3_standardised_advantages_are_not_parallel_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, rewards_M = WORLD.logits(2), WORLD.rewards(2)
    batch = rollouts(WORLD, logits, rewards_M, 2)
    monkeypatch.setattr(core, "group_leave_one_out", core.group_zscore)
    found = -loss_grad("rloo", batch, config("rloo"), logits)
    exact = policy_gradient(WORLD, logits, rewards_M)
    assert 0.5 < torch.cosine_similarity(found.flatten(), exact.flatten(), dim=0) < 0.9999


def test_P1_at_ratio_one_the_clipped_surrogate_is_plain_reinforce() -> None:
    logits, rewards_M = WORLD.logits(3), WORLD.rewards(3)
    batch = rollouts(WORLD, logits, rewards_M, 2)
    plain = loss_grad("rloo", batch, config("rloo", ratio="none"), logits)
    close(loss_grad("rloo", batch, config("rloo", ratio="sequence"), logits), plain)


def test_P2_the_clip_stops_only_what_already_went_far_enough() -> None:
    # rho = e^0.5 = 1.65 for both rows; A = (+1, -1) from rewards (1, 0).
    # Above 1.2 the first has no gradient left, the second has d(-rho A)/d logp / N = rho/2.
    batch = rows([[-1.0], [-1.0]], rewards=[1.0, 0.0], group_size=2, old=[[-1.5], [-1.5]])
    settings = config("rloo", ratio="sequence", clip=0.2)
    out = rloo.loss(batch, settings)
    rho = torch.tensor(0.5, dtype=torch.float64).exp()
    close(grad(out.loss, batch.logp_NT), torch.stack([rho * 0, rho / 2])[:, None])
    # min(1.65, 1.2) = 1.2 and min(-1.65, -1.2) = -1.65: L = -(1.2 - rho)/2
    close(out.loss.detach(), (rho - 1.2) / 2)
    assert out.metrics["clip_fraction"] == 0.5


def kl_of_states(world: World, logits: Tensor, ref: Tensor, forward: bool) -> Tensor:
    """sum over states of (how often pi visits it, held fixed) * KL of the next token there."""
    logp_SV, ref_logp_SV = logits.log_softmax(1), ref.detach().log_softmax(1)
    p, q = (ref_logp_SV, logp_SV) if forward else (logp_SV, ref_logp_SV)
    kl_S = (p.exp() * (p - q)).sum(1)
    visits_MT = world.probability(logits).detach()[:, None] * world.mask_MT
    return (visits_MT * kl_S[world.state_MT]).sum()


@pytest.mark.parametrize("world", [WORLD, FLAT], ids=["sequences", "one token"])
def test_K1_k1_in_the_loss_has_no_expected_gradient(world: World) -> None:
    logits, ref = world.logits(4), world.logits(5)
    batch = rollouts(world, logits, world.rewards(4) * 0, 2, ref=ref)
    close(
        loss_grad("rloo", batch, config("rloo", kl=kl("k1", "loss")), logits),
        torch.zeros_like(logits),
    )


@pytest.mark.parametrize("world", [WORLD, FLAT], ids=["sequences", "one token"])
def test_K2_k2_in_the_loss_descends_the_reverse_kl(world: World) -> None:
    logits, ref = world.logits(6), world.logits(7)
    batch = rollouts(world, logits, world.rewards(6) * 0, 2, ref=ref)
    found = loss_grad("rloo", batch, config("rloo", kl=kl("k2", "loss", 0.3)), logits)
    close(found, 0.3 * grad(kl_of_states(world, logits, ref, forward=False), logits))


@pytest.mark.parametrize("world", [WORLD, FLAT], ids=["sequences", "one token"])
def test_K3_k3_in_the_loss_descends_the_forward_kl(world: World) -> None:
    logits, ref = world.logits(8), world.logits(9)
    batch = rollouts(world, logits, world.rewards(8) * 0, 2, ref=ref)
    out = rloo.loss(batch, config("rloo", kl=kl("k3", "loss")))
    close(grad(out.loss, logits), grad(kl_of_states(world, logits, ref, forward=True), logits))
    # ... although its value is the reverse one
    close(out.loss.detach(), kl_of_states(world, logits, ref, forward=False).detach())


@pytest.mark.parametrize("world", [WORLD, FLAT], ids=["sequences", "one token"])
@pytest.mark.parametrize("ratio", ["none", "sequence"])
def test_K4_k1_in_the_reward_descends_the_reverse_kl_of_whole_sequences(
    world: World, ratio: str
) -> None:
    logits, ref = world.logits(10), world.logits(11)
    batch = rollouts(world, logits, world.rewards(10) * 0, 2, ref=ref)
    found = loss_grad(
        "rloo", batch, config("rloo", ratio=ratio, kl=kl("k1", "reward", 0.7)), logits
    )
    log_ratio_M = world.sequence_logp(logits) - world.sequence_logp(ref.detach())
    close(found, 0.7 * grad((world.probability(logits) * log_ratio_M).sum(), logits))


def test_rloo_hand_worked() -> None:
    # Rewards (3, 0, 0): A = 3 - 0 = 3, 0 - 3/2 = -1.5, -1.5.  s = (-1 - 2, -0.5, -1).
    # L = -(3*(-3) + 1.5*0.5 + 1.5*1)/3 = -(-9 + 0.75 + 1.5)/3 = 2.25
    batch = rows([[-1, -2], [-0.5, 9], [-1, 9]], [[1, 1], [1, 0], [1, 0]], [3, 0, 0], 3)
    out = rloo.loss(batch, config("rloo"))
    assert out.loss.item() == pytest.approx(2.25) == out.metrics["pg_loss"]
    # d/d logp = -A m / 3
    assert grad(out.loss, batch.logp_NT).tolist() == [[-1, -1], [0.5, 0], [0.5, 0]]


def test_rloo_kl_in_reward_hand_worked() -> None:
    # sum_t k1(old, ref) = (0.5 + 0.5, 0) = (1, 0). R - 2*k1 = (1 - 2, 0), so A = (-1, +1).
    # L = -(-1*(-1.2) + 1*(-0.9))/2 = -0.15
    batch = rows(
        [[-0.6, -0.6], [-0.9, 0]],
        [[1, 1], [1, 0]],
        [1, 0],
        2,
        old=[[-0.5, -0.5], [-1, 0]],
        ref=[[-1, -1], [-1, 5]],
    )
    out = rloo.loss(batch, config("rloo", kl=kl("k1", "reward", 2.0)))
    assert out.loss.item() == pytest.approx(-0.15)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, set()),
        ({"ratio": "sequence"}, {"old"}),
        ({"kl": kl("k3", "loss")}, {"ref"}),
        ({"kl": kl("k1", "reward")}, {"old", "ref"}),
        ({"kl": kl("k1", "reward", 0.0)}, set()),
    ],
)
def test_only_the_forwards_in_use_are_asked_for(
    changes: dict[str, Any], expected: set[str]
) -> None:
    settings = config("rloo", **changes)
    assert needs(get("rloo"), settings) == expected
    batch = rows(
        [[-1.0], [-2.0]],
        rewards=[1.0, 0.0],
        group_size=2,
        old=[[-1.0], [-2.0]] if "old" in expected else None,
        ref=[[-1.0], [-2.0]] if "ref" in expected else None,
    )
    assert torch.isfinite(rloo.loss(batch, settings).loss)


def test_a_missing_forward_is_named() -> None:
    batch = rows([[-1.0], [-2.0]], rewards=[1.0, 0.0], group_size=2)
    with pytest.raises(ValueError, match="old_logp_NT"):
        rloo.loss(batch, config("rloo", ratio="sequence"))
    with pytest.raises(ValueError, match="ref_logp_NT"):
        rloo.loss(batch, config("rloo", kl=kl("k2", "loss")))
