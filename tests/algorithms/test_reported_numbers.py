"""The numbers beside the loss, by hand: what counts as clipped or as right, emptied rows, weights at any temperature."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from world import config, loss_grad, rows

from rlfamily import core
from rlfamily.algorithms import dpo, dro, dro_online, gnivo, grpo, kto, online_dpo, oreo, rloo, rpo, topr
from rlfamily.rewards import bradley_terry

NO_KL = {"coef": 0.0, "form": "k3", "place": "loss"}


def settings(name: str, **changes: Any) -> Any:
    return config(name, kl=NO_KL, **changes)


def test_a_row_inside_the_clip_is_not_clipped() -> None:
    # ratios e^0.1 = 1.11 inside 1 +- 0.2, and e^0.5 = 1.65 outside
    batch = rows([[-1.0]] * 4, rewards=[1.0, 0, 1, 0], group_size=2, old=[[-1.1], [-1.1], [-1.5], [-1.1]])
    assert rloo.loss(batch, settings("rloo", ratio="sequence", clip=0.2)).metrics["clip_fraction"] == 0.25
    assert grpo.loss(batch, settings("grpo", clip=0.2)).metrics["clip_fraction"] == 0.25


def test_a_ratio_just_at_its_limit_is_not_clipped() -> None:
    batch = rows([[-1.0]] * 3, rewards=[1.0, 1.0, -1.0], old=[[-1.0]] * 3)  # on policy: every ratio is 1
    weights = {"weights": "canonical", "baseline": "none"}
    for limits in ([0.0, 1.0], [1.0, 2.0]):
        both = {"limits": {"positive": limits, "negative": limits}}
        assert topr.loss(batch, config("topr", **weights, **both)).metrics["clip_fraction"] == 0


@pytest.mark.parametrize(("gap", "accuracy"), [(0.0, 0.0), (0.5, 1.0), (-0.5, 0.0)])
def test_a_margin_of_zero_is_not_right(gap: float, accuracy: float) -> None:
    pair = rows([[-1.0 + gap], [-1.0]], rewards=[1.0, 0.0], group_size=2, ref=[[-1.0]] * 2)
    scores = bradley_terry.ScoreBatch(torch.tensor([gap, 0.0]))
    found = [dpo.loss(pair, config("dpo")).metrics, bradley_terry.loss(scores).metrics,
             online_dpo.loss(pair, settings("online_dpo", dpo_ref="init")).metrics]
    assert [one["accuracy"] for one in found] == [accuracy] * 3


def test_a_row_without_tokens_counts_in_no_mean() -> None:
    """The last row was emptied by mask_truncated: means are over the other three; its reward is in the advantages."""
    batch = rows([[-1.0]] * 4, [[1], [1], [1], [0]], [1.0, 0.0, 4.0, 0.0], 2, old=[[-1.5], [-1.0], [-1.0], [-1.5]])
    found = rloo.loss(batch, settings("rloo", ratio="sequence", clip=0.2))
    assert found.metrics["clip_fraction"] == pytest.approx(1 / 3)
    # min(1.65, 1.2) * 1, 1 * -1, 1 * 4; the emptied row is no row
    assert found.loss.item() == pytest.approx(-(1.2 - 1 + 4) / 3)
    plain = grpo.loss(batch, settings("grpo", scale_rewards="none"))
    assert plain.metrics["advantage_abs"] == pytest.approx((0.5 + 0.5 + 2) / 3)
    critic = rows([[-1.0]] * 3, [[1], [1], [0]], [1.0, 0, 0], old=[[-1.0]] * 3)
    values = torch.tensor([[2.0], [4.0], [9.0]], dtype=torch.float64, requires_grad=True)
    critic.__dict__.update(values_NT=values, old_values_NT=values.detach())
    assert dro_online.loss(critic, settings("dro_online")).metrics["value_mean"] == pytest.approx(3)


@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_the_running_reward_is_divided_by_the_temperature(alpha: float) -> None:
    """w = exp((R - mean of past rewards) / alpha); at ratio 1 the gradient is mean w - w."""
    batch = rows([[-1.0]] * 2, rewards=[0.3, 1.1], group_size=2, old=[[-1.0]] * 2, running_reward=0.7)
    w = torch.tensor([math.exp((reward - 0.7) / alpha) for reward in (0.3, 1.1)])
    found = loss_grad("gnivo", batch, settings("gnivo", alpha=alpha, weights="unnormalised", shift="running_mean"))
    assert found[:, 0].tolist() == pytest.approx((w.mean() - w).tolist(), rel=1e-5)


def test_the_variance_of_a_drawn_position_with_weights_that_do_not_sum_to_one() -> None:
    # w = (1, 3) at ratio 1: pulls 4/2 - w = (1, -1). The first response ends after one token: only the second differs
    # between the two positions, (p, 0) or (p, p): S^2 = 1/2. Squared mean 1 + 1 + 1/4. One of two drawn: 1/4 / (9/4).
    batch = rows([[-1.0, 0.0], [-1.0, -1.0]], [[1, 0], [1, 1]], [0.0, math.log(3)], 2, old=[[-1.0, 0.0], [-1.0, -1.0]],
                 generator=torch.Generator())
    chosen = settings("gnivo", alpha=1.0, weights="unnormalised", shift="none", sampled_t=1)
    assert gnivo.loss(batch, chosen).metrics["t_draw_variance"] == pytest.approx(1 / 9)


def test_standardised_rewards_have_the_stated_epsilon() -> None:
    """(R - mean) / (std + 1e-4): with rewards of that size it halves them."""
    small = torch.tensor([0.0, 2.0, 1.0]) * 1e-4  # mean 1e-4, std 1e-4
    assert core.group_zscore(small.double(), 3).tolist() == pytest.approx([-0.5, 0.5, 0.0], abs=1e-6)


def test_what_methods_of_logged_responses_report() -> None:
    """Log-ratios 1 and 3 in sum, 1/2 and 3 in the mean; the third row was emptied; rewards 2 and -4, tau 2."""
    values = torch.tensor([[1.0, 2.0], [6.0, 0.0], [50.0, 50.0]], dtype=torch.float64, requires_grad=True)
    batch = rows([[-1.0, -1.0], [-1.0, 0.0], [-1.0, -1.0]], [[1, 1], [1, 0], [0, 0]], [2.0, -4.0, 90.0], 0,
                 ref=[[-2.0, -1.0], [-4.0, 0.0], [-9.0, -9.0]], prompt_index_N=torch.tensor([0, 1, 1]),
                 values_NT=values, prompt_values_N=values[:, 0])
    plain = rpo.loss(batch, config("rpo", partition="none", log_ratio="sum", tau=2.0)).metrics
    assert (plain["target"], plain["log_ratio"]) == (-0.5, 2)
    assert rpo.loss(batch, config("rpo", tau=2.0)).metrics["log_ratio"] == 1.75
    # V/tau: 1 + log exp(-3/2) alone in its group; -2 - 4
    assert rpo.loss(batch, config("rpo", tau=2.0)).metrics["target"] == pytest.approx((1.5 + 4) / 2)
    found = dro.loss(batch, config("dro", variant="joint", tau=2.0)).metrics  # residuals 2 - 1 - 2 and -4 - 6 - 6
    assert (found["squared_residual"], found["value_mean"], found["log_ratio"]) == ((0.5 + 128) / 2, 3.5, 2)
    good = kto.loss(batch, config("kto")).metrics
    assert (good["good"], good["reference_point"], good["log_ratio"]) == (0.5, 1.75, 1.75)
    # states 1 + 2 - 2, 2 + 0 - 2 and 6 + 6 + 4
    assert oreo.loss(batch, config("oreo", beta=2.0, kl=NO_KL)).metrics["value_loss"] == pytest.approx((1 + 0 + 256) / 3)
    assert oreo.loss(batch, config("oreo", kl=NO_KL)).metrics["value_mean"] == 3
