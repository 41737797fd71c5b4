"""The gap between engine and trainer, and the weights that correct for it, on distributions that can be summed over."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rlfamily import core

# What the engine draws from, what the trainer believes, and a reward for each of five tokens.
ENGINE = torch.tensor([0.5, 0.3, 0.1, 0.06, 0.04], dtype=torch.float64)
LOGITS = torch.tensor([0.2, -1.0, 0.4, 1.3, 0.1], dtype=torch.float64)
REWARDS = torch.tensor([1.0, -2.0, 0.5, 3.0, 0.0], dtype=torch.float64)
ONES = torch.ones(5, 1, dtype=torch.float64)


def tensor(*values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_mismatch_hand_worked() -> None:
    engine_NT, old_NT = tensor([-1, -2], [-1, math.nan]), tensor([-1, -4], [0, 7])
    found = core.to_floats(core.mismatch_metrics(engine_NT, old_NT, tensor([1, 1], [1, 0])))
    # old - engine: 0, -2, 1 over three tokens
    assert found == pytest.approx({
        "mismatch_mean": 1, "mismatch_max": 2, "mismatch_kl": (math.exp(-2) + 1 + math.e - 2) / 3})


def test_the_expectation_of_mismatch_kl_is_the_kl_from_engine_to_trainer() -> None:
    old = LOGITS.softmax(0)
    estimates = [core.mismatch_metrics(ENGINE[[y], None].log(), old[[y], None].log(), ONES[:1])["mismatch_kl"] for y in range(5)]
    exact = (ENGINE * (ENGINE / old).log()).sum()
    torch.testing.assert_close((ENGINE * torch.stack(estimates)).sum(), exact)
    assert (exact - (old * (old / ENGINE).log()).sum()).abs() > 0.05  # the other direction is another number


def test_rounding_is_no_kl() -> None:
    logp_NT = torch.tensor([[-3.0, -11.0, -0.2]])
    noise_NT = logp_NT * (1 + 2e-7)
    found = core.mismatch_metrics(noise_NT, logp_NT, torch.ones(1, 3))
    assert 0 < found["mismatch_kl"] < 1e-11
    assert core.mismatch_metrics(logp_NT, logp_NT, torch.ones(1, 3))["mismatch_max"] == 0


def corrected_gradient(cap: float) -> Tensor:
    """Expected policy gradient of one token drawn by the engine, each token's share weighted."""
    logits = LOGITS.clone().requires_grad_()
    logp_NT = logits.log_softmax(0)[:, None]
    (gradient_NT,) = torch.autograd.grad((ENGINE * REWARDS * logp_NT[:, 0]).sum(), logp_NT, retain_graph=True)
    weights_NT = core.importance_weights(ENGINE.log()[:, None], logp_NT, ONES, cap)
    assert not weights_NT.requires_grad
    (gradient,) = torch.autograd.grad(logp_NT, logits, gradient_NT * weights_NT)
    return gradient


def test_weighted_gradients_of_the_engines_samples_are_those_of_the_trainers_own() -> None:
    logits = LOGITS.clone().requires_grad_()
    (exact,) = torch.autograd.grad((logits.softmax(0) * REWARDS).sum(), logits)
    torch.testing.assert_close(corrected_gradient(1e6), exact)
    assert (corrected_gradient(1.0) - exact).abs().max() > 0.05  # a cap that bites costs a bias
    # at a cap of 0.01 every weight is 0.01, which is no correction at all
    logp = logits.log_softmax(0)
    (uncorrected,) = torch.autograd.grad((ENGINE * REWARDS * logp).sum(), logits)
    torch.testing.assert_close(corrected_gradient(0.01), 0.01 * uncorrected)
    assert (uncorrected - exact).abs().max() > 0.05


def test_weights_by_hand() -> None:
    engine_NT, old_NT = tensor([-1, -900, -1], [-1, -1, -2]), tensor([-2, -1, 5], [-1, 0, -1])
    mask_NT = tensor([1, 1, 0], [1, 1, 1])
    # old / engine: 1/e, exp(899), pad | 1, e, e
    weights_NT = core.importance_weights(engine_NT, old_NT, mask_NT, 2.0)
    assert weights_NT.flatten().tolist() == pytest.approx([math.exp(-1), 2, 1, 1, 2, 2])
    found = core.to_floats(core.importance_metrics(engine_NT, old_NT, mask_NT, 2.0))
    assert found == pytest.approx({"importance_mean": (math.exp(-1) + 7) / 5, "importance_truncated": 3 / 5})
    assert core.to_floats(core.importance_metrics(old_NT, old_NT, mask_NT, 1.0)) == {
        "importance_mean": 1, "importance_truncated": 0}
