"""KTO against closed forms (KT1 to KT3): gradient, saturation, the reference point; the variant of RPO's public code."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from world import build, close, config, grad, loss_grad, rows

from rlfamily.algorithms import LossBatch, get, kto, needs
from rlfamily.theory import logged
from rlfamily.theory.tilting import divergence

WORLD = build(3, 2, True)


def settings(variant: str = "canonical", **changes: Any) -> kto.Config:
    found: kto.Config = config("kto", variant=variant, **changes)
    return found


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def batch_of(log_ratios: list[float], rewards: list[float], others: list[float] | None = None, **fields: Any) -> LossBatch:
    """Responses of one token with these log-ratios, and the log-ratios of the mismatched ones."""
    if others is not None:
        zero_NT = torch.zeros(len(others), 1, dtype=torch.float64)
        fields |= {"mismatched_logp_NT": torch.tensor(others, dtype=torch.float64)[:, None].requires_grad_(),
                   "mismatched_ref_logp_NT": zero_NT, "mismatched_mask_NT": torch.ones_like(zero_NT)}
    return rows([[x] for x in log_ratios], rewards=rewards, ref=[[0.0]] * len(log_ratios),
                prompt_index_N=torch.arange(len(log_ratios)), **fields)


def test_KT1_loss_and_gradient_of_either_side() -> None:
    # beta 0.5, z0 = mean(0.2, 0.6) = 0.4; good: 0.5 (1.0 - 0.4), bad: 0.5 (0.4 + 0.8)
    batch = batch_of([1.0, -0.8], [0.3, -0.1], [0.2, 0.6])
    chosen = settings(beta=0.5, good_weight=2.0, bad_weight=3.0)
    good, bad = sigmoid(0.3), sigmoid(0.6)
    assert kto.loss(batch, chosen).loss.item() == pytest.approx((2 * (1 - good) + 3 * (1 - bad)) / 2)
    slope_N = loss_grad("kto", batch, chosen)[:, 0]
    assert slope_N.tolist() == pytest.approx([-2 * 0.5 * good * (1 - good) / 2, 3 * 0.5 * bad * (1 - bad) / 2])
    assert kto.loss(batch, chosen).metrics["reference_point"] == pytest.approx(0.4)
    assert kto.loss(batch, chosen).metrics["good"] == 0.5


def test_KT1_exact_gradient_on_all_responses() -> None:
    ref, logits, rewards_M = WORLD.logits(0).detach(), WORLD.logits(1), WORLD.rewards(0)
    weight_M = WORLD.probability(WORLD.logits(2).detach())
    z0 = 0.25
    other_MT = torch.full((7, 1), z0, dtype=torch.float64)
    batch = logged.whole_log(WORLD, logits, ref, rewards_M, weight_M, mismatched_logp_NT=torch.nn.functional.pad(other_MT, (0, 1)),
                             mismatched_mask_NT=torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(7, 2),
                             mismatched_ref_logp_NT=torch.zeros(7, 2, dtype=torch.float64))
    found = loss_grad("kto", batch, settings(beta=0.8), logits)
    rho_M = WORLD.sequence_logp(logits) - WORLD.sequence_logp(ref)
    sign_M = rewards_M.sign()
    s_M = (sign_M * 0.8 * (rho_M.detach() - z0)).sigmoid()
    close(found, grad(-(weight_M * sign_M * 0.8 * s_M * (1 - s_M) * rho_M).sum(), logits))


def test_KT2_a_common_shift_saturates_the_published_loss_and_not_that_of_the_public_code() -> None:
    for variant, expected in (("canonical", sigmoid(8) * sigmoid(-8) / 4), ("repo", 1 / 16)):
        slope_NT = loss_grad("kto", batch_of([8.0] * 4, [1.0] * 4), settings(variant, beta=1.0))
        assert slope_NT[:, 0].tolist() == pytest.approx([-expected] * 4)
    assert sigmoid(8) * sigmoid(-8) / 4 == pytest.approx(8e-5, rel=0.05)
    still_NT = loss_grad("kto", batch_of([0.0] * 4, [1.0] * 4), settings("canonical", beta=1.0))
    assert still_NT[:, 0].tolist() == pytest.approx([-1 / 16] * 4)


def reference_point(drawn_by: Tensor, logits: Tensor, ref: Tensor) -> float:
    logp_MT, ref_MT = WORLD.logp(logits), WORLD.logp(ref)
    batch = logged.whole_log(WORLD, logits, ref, WORLD.rewards(0), WORLD.probability(drawn_by), mismatched_logp_NT=logp_MT,
                             mismatched_mask_NT=WORLD.mask_MT, mismatched_ref_logp_NT=ref_MT)
    return kto.loss(batch, settings()).metrics["reference_point"]


def test_KT3_the_reference_point_is_a_kl_where_the_policy_drew_and_clamped_where_the_reference_did() -> None:
    ref, logits = WORLD.logits(0).detach(), WORLD.logits(1).detach()
    pi_M, ref_M = WORLD.probability(logits), WORLD.probability(ref)
    assert reference_point(logits, logits, ref) == pytest.approx(divergence(pi_M, ref_M))
    assert reference_point(ref, logits, ref) == 0
    assert float(ref_M @ (pi_M / ref_M).log()) < -0.1  # what the clamp is for


def test_KT3_the_clamp_is_of_the_mean_not_of_the_terms() -> None:
    assert kto.loss(batch_of([0.0] * 2, [1.0] * 2, [3.0, -1.0]), settings()).metrics["reference_point"] == 1
    assert kto.loss(batch_of([0.0] * 2, [1.0] * 2, [1.0, -3.0]), settings()).metrics["reference_point"] == 0


def test_the_reference_point_has_no_gradient() -> None:
    batch = batch_of([1.0, -0.8], [0.3, -0.1], [0.2, 0.6])
    assert batch.mismatched_logp_NT is not None
    assert not grad(kto.loss(batch, settings()).loss, batch.mismatched_logp_NT).any()
    # the public code's is the batch's own mean: with a gradient, those of equal rows would cancel
    assert loss_grad("kto", batch_of([0.5] * 4, [1.0] * 4), settings("repo")).abs().min() == pytest.approx(1 / 16)


def test_the_public_codes_variant_hand_worked() -> None:
    # means over tokens -1, 0.5, -2; z0 = -5/6, not clamped; mismatched responses are not looked at
    batch = rows([[-1.0, -1.0], [0.5, 9.0], [-1.0, -3.0]], [[1, 1], [1, 0], [1, 1]], [1.0, -1.0, 0.0], ref=[[0.0] * 2] * 3)
    out = kto.loss(batch, settings("repo", beta=1.0))
    z0 = -2.5 / 3
    assert out.metrics["reference_point"] == pytest.approx(z0)
    assert out.metrics["good"] == pytest.approx(2 / 3)  # the threshold itself is good
    terms = [1 - sigmoid(-1 - z0), 1 - sigmoid(z0 - 0.5), 1 - sigmoid(-2 - z0)]
    assert out.loss.item() == pytest.approx(sum(terms) / 3)
    assert needs(get("kto"), settings("repo")) == {"ref"} and needs(get("kto"), settings()) == {"ref", "mismatched"}


@pytest.mark.parametrize("variant", ["canonical", "repo"])
def test_without_sharpness_a_good_response_loses_one_half(variant: str) -> None:
    out = kto.loss(batch_of([3.0, -2.0, 0.5], [1.0] * 3, [1.0, 2.0, 3.0]), settings(variant, beta=1e-9))
    assert out.loss.item() == pytest.approx(0.5)


def test_with_one_prompt_there_is_no_mismatched_response() -> None:
    out = kto.loss(batch_of([1.0, -1.0], [1.0, -1.0]), settings(beta=1.0))
    assert out.metrics["reference_point"] == 0
    assert out.loss.item() == pytest.approx(1 - sigmoid(1))


def test_rows_without_tokens_are_not_in_the_reference_point() -> None:
    batch = batch_of([1.0, 2.0, 5.0], [1.0] * 3, [0.5, 1.5, 7.0])
    empty = replace(batch, mask_NT=batch.mask_NT.index_fill(0, torch.tensor([2]), 0))
    assert kto.loss(empty, settings()).metrics["reference_point"] == pytest.approx(1)
    assert kto.loss(empty, settings("repo")).metrics["reference_point"] == pytest.approx(1.5)
    assert batch.mismatched_mask_NT is not None
    other = replace(batch, mismatched_mask_NT=batch.mismatched_mask_NT.index_fill(0, torch.tensor([2]), 0))
    assert kto.loss(other, settings()).metrics["reference_point"] == pytest.approx(1)


def test_row_weights_weigh_the_reference_point() -> None:
    batch = batch_of([0.0, 0.0], [1.0, 1.0], [1.0, 5.0], row_weight_N=torch.tensor([3.0, 1.0], dtype=torch.float64))
    assert kto.loss(batch, settings()).metrics["reference_point"] == pytest.approx(2)


def test_a_side_may_weigh_nothing() -> None:
    batch = batch_of([1.0, -1.0], [1.0, -1.0])
    assert kto.loss(batch, settings(beta=1.0, good_weight=0.0)).loss.item() == pytest.approx((1 - sigmoid(1)) / 2)
    assert kto.loss(batch, settings(beta=1.0, bad_weight=0.0)).loss.item() == pytest.approx((1 - sigmoid(1)) / 2)
