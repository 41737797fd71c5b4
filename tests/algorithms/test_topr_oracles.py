"""TOPR against closed forms: T1-T9, on its own loss."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from world import build, close, config, grad, loss_grad, policy_gradient, rollouts, rows

from rlfamily.algorithms import topr

WORLD = build(vocab=3, length=3, eos=True)
FLAT = build(vocab=4, length=1, eos=False)


def settings(**changes: Any) -> Any:
    return config("topr", **{"baseline": "none", **changes})


def tau(start: float, end: float = 1.0, schedule: str = "linear") -> dict[str, Any]:
    return {"start": start, "end": end, "schedule": schedule}


def limits(positive: list[float], negative: list[float]) -> dict[str, Any]:
    return {"positive": positive, "negative": negative}


def test_T1_expected_gradient_is_equation_5() -> None:
    logits, behaviour, rewards_M = WORLD.logits(0), WORLD.logits(1).detach(), WORLD.rewards(0)
    mu_M, ratio_M = (
        WORLD.probability(behaviour),
        WORLD.probability(logits) / WORLD.probability(behaviour),
    )
    weight_M = torch.where(rewards_M >= 0, 1.0, ratio_M.clamp(0, 1)).detach()
    expected = grad((mu_M * weight_M * rewards_M * WORLD.sequence_logp(logits)).sum(), logits)
    batch = rollouts(WORLD, logits, rewards_M, 1, behaviour=behaviour)
    close(-loss_grad("topr", batch, settings(), logits), expected)


@pytest.mark.parametrize("weights", ["canonical", "report", "tapered"])
@pytest.mark.parametrize("ratio", ["sequence", "token", "length_norm"])
@pytest.mark.parametrize(("baseline", "group_size"), [("none", 1), ("loo", 2)])
def test_T2_on_policy_it_is_reinforce(
    weights: str, ratio: str, baseline: str, group_size: int
) -> None:
    logits, rewards_M = WORLD.logits(2), WORLD.rewards(2)
    batch = rollouts(WORLD, logits, rewards_M, group_size)
    chosen = settings(weights=weights, ratio=ratio, baseline=baseline, group_size=2)
    close(-loss_grad("topr", batch, chosen, logits), policy_gradient(WORLD, logits, rewards_M))
    assert topr.loss(batch, chosen).metrics["weight_mean"] == pytest.approx(1)


def test_T3_the_ratio_is_detached() -> None:
    # R = -1, s = -3, s_mu = -2.5: w = e^-0.5. dL/ds = -w R = +w. Through the ratio it would be
    # -w R (1 + s) = -2w: the opposite sign, as for any text (s < -1).
    batch = rows([[-1.0, -2.0]], rewards=[-1.0], old=[[-1.0, -1.5]])
    close(
        loss_grad("topr", batch, settings()),
        torch.full((1, 2), math.exp(-0.5), dtype=torch.float64),
    )


def test_T4_the_reports_taper_contradicts_equation_5_on_positives() -> None:
    # R = +1 and rho = e^-1. Eq. 5 and tapered keep weight 1, so dL/ds = -1;
    # Eq. 9 gives min(tau, rho) = e^-1.
    batch = rows([[-2.0]], rewards=[1.0], old=[[-1.0]])
    expected = {"canonical": -1.0, "report": -math.exp(-1), "tapered": -1.0}
    for weights, value in expected.items():
        found = loss_grad("topr", batch, settings(weights=weights, tau=tau(5)))
        assert found.item() == pytest.approx(value), weights
    # R = +1 and rho = e^3 = 20.1 > tau = 5
    batch = rows([[-1.0]], rewards=[1.0], old=[[-4.0]])
    assert loss_grad("topr", batch, settings(weights="report", tau=tau(5))).item() == pytest.approx(
        -5
    )
    # R = -1: tapered lets a negative weigh up to tau, canonical up to 1
    batch = rows([[-1.0]], rewards=[-1.0], old=[[-4.0]])
    assert loss_grad(
        "topr", batch, settings(weights="tapered", tau=tau(5))
    ).item() == pytest.approx(5)
    assert loss_grad("topr", batch, settings()).item() == 1


def test_T5_offline_negatives_stop_pushing_where_naive_reinforce_does_not() -> None:
    # mu uniform over 4 responses, R = (1, 1, -1, -1), so sum mu R = 0 and the naive gradient on the
    # logits, mu R - pi sum(mu R) = R/4, is constant: after n steps of size eta they are eta n R/4.
    rewards_M = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
    steps, rate = 1500, 0.5
    naive = descend(rewards_M, settings(limits=limits([1, 1], [1, 1])), steps, rate)
    close(naive, (rate * steps * rewards_M / 4)[None], 1e-9)
    tapered = descend(rewards_M, settings(), steps, rate)
    lowest_naive, lowest_topr = (logits.log_softmax(1).min().item() for logits in (naive, tapered))
    assert lowest_naive < -300 and lowest_topr > -15
    assert all((logits.softmax(1) @ rewards_M).item() > 0.98 for logits in (naive, tapered))


def descend(rewards_M: torch.Tensor, chosen: Any, steps: int, rate: float) -> torch.Tensor:
    logits = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    behaviour = torch.zeros(1, 4, dtype=torch.float64)
    for _ in range(steps):
        batch = rollouts(FLAT, logits, rewards_M, 1, behaviour=behaviour)
        logits = (
            (logits - rate * loss_grad("topr", batch, chosen, logits)).detach().requires_grad_()
        )
    return logits.detach()


def test_T6_greedy_groups_have_no_leave_one_out_signal() -> None:
    # greedy decoding repeats one response: rewards of a group are equal, advantages exactly 0
    batch = rows([[-1.0, -0.3]] * 3, rewards=[0.1] * 3, group_size=3, old=[[-0.2, -0.9]] * 3)
    out = topr.loss(batch, settings(baseline="loo"))
    assert out.loss.item() == 0
    assert not grad(out.loss, batch.logp_NT).any()
    assert out.metrics["pg_loss"] != 0


@pytest.mark.parametrize(("mean_logp", "printed"), [(-17.28175, -34.5635), (-50.48345, -100.9669)])
def test_T7_pg_loss_is_twice_the_log_prob_when_everything_is_wrong(
    mean_logp: float, printed: float
) -> None:
    # R = -2 and w = 1: -w R s = 2 s. Table 2's losses are then mean response log-probs of -17.3
    # and -50.5 nats: they measure likelihood, not success.
    batch = rows(
        [[mean_logp - 5], [mean_logp + 5]],
        rewards=[-2.0, -2.0],
        group_size=2,
        old=[[mean_logp - 5], [mean_logp + 5]],
    )
    assert topr.loss(batch, settings(baseline="loo")).metrics["pg_loss"] == pytest.approx(printed)


def test_T8_three_ratios_give_three_gradients() -> None:
    # A wrong response with token log-ratios +1 and -2. dL/d logp_t = w_t, and
    # sequence: w = min(1, e^-1) both; length_norm: e^(-1/2) both; token: min(1, e^1) = 1 and e^-2.
    batch = rows([[-1.0, -3.0]], rewards=[-1.0], old=[[-2.0, -1.0]])
    expected = {
        "sequence": [math.exp(-1)] * 2,
        "length_norm": [math.exp(-0.5)] * 2,
        "token": [1.0, math.exp(-2)],
    }
    for ratio, weights in expected.items():
        assert loss_grad("topr", batch, settings(ratio=ratio))[0].tolist() == pytest.approx(
            weights
        ), ratio
    assert topr.loss(batch, settings(ratio="token")).metrics["clip_fraction"] == 0.5


@pytest.mark.parametrize(("p", "c"), [(0.25, 0.5), (0.75, -0.5), (0.25, 0.0)])
def test_T9_a_constant_baseline_moves_the_effective_share_of_positives(p: float, c: float) -> None:
    # R - c is 1 - c on a share p and -(1 + c) on the rest: p~ = p(1-c) / (1 + c(1-2p))
    positives = round(4 * p)
    batch = rows(
        [[-1.0]] * 4, rewards=[1.0] * positives + [-1.0] * (4 - positives), old=[[-1.0]] * 4
    )
    pull_N = -loss_grad("topr", batch, settings(baseline_constant=c))[:, 0]
    share = pull_N.clamp(min=0).sum() / pull_N.abs().sum()
    assert share.item() == pytest.approx(p * (1 - c) / (1 + c * (1 - 2 * p)))


@pytest.mark.parametrize("logp", [-500.0, -1e4])
def test_canonical_weight_of_a_positive_is_exactly_one(logp: float) -> None:
    for reward in (0.0, 1.0):
        batch = rows([[logp]], rewards=[reward], old=[[-1.0]], dtype=torch.float32)
        assert topr.loss(batch, settings()).metrics["weight_mean"] == 1
        assert loss_grad("topr", batch, settings()).item() == -reward


def test_a_negative_fades_as_the_policy_leaves_it() -> None:
    pull = [
        loss_grad("topr", rows([[-1.0 - d]], rewards=[-1.0], old=[[-1.0]]), settings()).item()
        for d in (0, 1, 10, 1e3)
    ]
    assert pull == pytest.approx([1, math.exp(-1), math.exp(-10), 0])


def test_the_four_limits() -> None:
    # rho = e^-2 = .135 and e^2 = 7.39, each with either sign of reward
    batch = rows(
        [[-3.0], [-3.0], [-1.0], [-1.0]],
        rewards=[1.0, -1.0, 1.0, -1.0],
        old=[[-1.0], [-1.0], [-3.0], [-3.0]],
    )
    general = settings(limits=limits([0.5, 2.0], [0.2, 3.0]))
    assert (4 * loss_grad("topr", batch, general))[:, 0].tolist() == pytest.approx(
        [-0.5, 0.2, -2.0, 3.0]
    )
    symmetric = settings(limits=limits([0.5, 2.0], [0.2, 3.0]), asymmetric=False)
    assert (4 * loss_grad("topr", batch, symmetric))[:, 0].tolist() == pytest.approx(
        [-0.2, 0.2, -3.0, 3.0]
    )


def test_tau_follows_progress_and_is_reported() -> None:
    batch = rows([[-1.0]], rewards=[1.0], old=[[-4.0]], progress=0.25)
    out = topr.loss(batch, settings(weights="report", tau=tau(5, 1)))
    assert out.metrics["tau"] == 4  # 5 + (1 - 5)/4
    assert out.metrics["weight_mean"] == pytest.approx(4)
    assert out.metrics["clip_fraction"] == 1


def test_baselines() -> None:
    # weights are 1 on policy, so dL/d logp = -A/2
    def advantages(**changes: Any) -> list[float]:
        batch = rows(
            [[-1.0], [-1.0]],
            rewards=[2.0, -1.0],
            group_size=2,
            old=[[-1.0], [-1.0]],
            running_reward=0.5,
        )
        found: list[float] = (-2 * loss_grad("topr", batch, settings(**changes)))[:, 0].tolist()
        return found

    assert advantages() == [2, -1]
    assert advantages(baseline_constant=0.25) == [1.75, -1.25]
    assert advantages(baseline="running_mean") == [1.5, -1.5]
    assert advantages(baseline="loo") == [3, -3]
    assert advantages(baseline="loo", baseline_constant=0.25) == [3, -3]


def test_loss_and_pg_loss_hand_worked() -> None:
    # R = (1, -2), s = (-1, -3), s_mu = (-2, -2): w = (1, e^-1). loo: A = (3, -3).
    # L = -(1*3*(-1) + e^-1*(-3)*(-3))/2 ; pg_loss = -(1*1*(-1) + e^-1*(-2)*(-3))/2
    batch = rows([[-1.0], [-3.0]], rewards=[1.0, -2.0], group_size=2, old=[[-2.0], [-2.0]])
    out = topr.loss(batch, settings(baseline="loo"))
    w = math.exp(-1)
    assert out.loss.item() == pytest.approx((3 - 9 * w) / 2)
    assert out.metrics["pg_loss"] == pytest.approx((1 - 6 * w) / 2)
    assert out.metrics["weight_mean"] == pytest.approx((1 + w) / 2)
    assert out.metrics["kl_old"] == pytest.approx(0)  # mean of old - new = (-1 + 1)/2


def test_without_the_behaviour_policy_it_refuses() -> None:
    with pytest.raises(ValueError, match="old_logp_NT"):
        topr.loss(rows([[-1.0]], rewards=[1.0]), settings())
