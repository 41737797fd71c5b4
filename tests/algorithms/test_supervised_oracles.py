"""DPO against closed forms (D1-D3), and cross-entropy against an independent gather."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from world import build, close, config, grad, loss_grad, pairs, rows

from rlfamily.algorithms import dpo, sft

WORLD = build(vocab=3, length=2, eos=True)  # 7 sequences


def bradley_terry(rewards_M: Tensor) -> Tensor:
    """P(i beats j) of every ordered pair of different sequences, (M, M)."""
    preference_MM = torch.sigmoid(rewards_M[:, None] - rewards_M)
    return preference_MM.masked_fill(torch.eye(len(rewards_M), dtype=torch.bool), 0)


def test_D1_gradient_of_a_pair() -> None:
    # beta = 0.5, u_w = (-1 + -2) - (-1.5 - 2.5) = 1, u_l = -2 - (-1) = -1.
    # dL/ds_w = -beta sigmoid(-beta (u_w - u_l)) = -0.5 sigmoid(-1), dL/ds_l = + the same
    batch = rows(
        [[-1.0, -2.0], [-2.0, 7.0]], [[1, 1], [1, 0]], group_size=2, ref=[[-1.5, -2.5], [-1.0, 3.0]]
    )
    out = dpo.loss(batch, config("dpo", beta=0.5))
    pull = 0.5 / (1 + math.e)
    close(
        grad(out.loss, batch.logp_NT),
        torch.tensor([[-pull, -pull], [pull, 0]], dtype=torch.float64),
    )
    assert out.loss.item() == pytest.approx(math.log(1 + math.exp(-1)))
    assert out.metrics["margin"] == pytest.approx(1)
    assert out.metrics["accuracy"] == 1


def test_D2_with_bradley_terry_labels_the_minimiser_is_the_tilted_reference() -> None:
    beta = 0.7
    logits, ref, rewards_M = WORLD.logits(0), WORLD.logits(1).detach(), WORLD.rewards(0)
    preference_MM = bradley_terry(rewards_M)
    optimiser = torch.optim.LBFGS(
        [logits],
        max_iter=500,
        tolerance_grad=1e-12,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        loss = dpo.loss(pairs(WORLD, logits, ref, preference_MM), config("dpo", beta=beta)).loss
        logits.grad = grad(loss, logits)
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    tilted_M = (WORLD.sequence_logp(ref) + rewards_M / beta).softmax(0)
    close(WORLD.probability(logits).detach(), tilted_M, 1e-6)


def test_D3_with_hard_labels_there_is_no_finite_minimiser() -> None:
    # labels = argmax. Along log pi/pi_ref = c r + const every pair's margin is beta c (r_w - r_l),
    # above 0, so the loss falls towards 0 for ever: mean softplus(-beta c (r_w - r_l)).
    flat = build(vocab=4, length=1, eos=False)
    ref, rewards_M = flat.logits(2).detach(), flat.rewards(2)
    preference_MM = (rewards_M[:, None] > rewards_M).double()
    gap = (rewards_M[:, None] - rewards_M)[preference_MM > 0]
    losses = []
    for c in (1.0, 10.0, 100.0, 1000.0, 10000.0):
        logits = (ref.log_softmax(1) + c * rewards_M[flat.tokens_MT[:, 0]]).requires_grad_()
        out = dpo.loss(pairs(flat, logits, ref, preference_MM), config("dpo", beta=0.1))
        losses.append(out.loss.item())
        assert losses[-1] == pytest.approx(
            torch.nn.functional.softplus(-0.1 * c * gap).mean().item()
        )
        assert grad(out.loss, logits).any()
    assert losses == sorted(losses, reverse=True) and losses[-1] < 1e-3


def test_dpo_at_the_reference() -> None:
    batch = rows([[-1.0], [-2.0]], group_size=2, ref=[[-1.0], [-2.0]])
    assert dpo.loss(batch, config("dpo")).loss.item() == pytest.approx(math.log(2))
    assert loss_grad("dpo", batch, config("dpo", beta=0.1))[:, 0].tolist() == pytest.approx(
        [-0.05, 0.05]
    )


def test_dpo_swapping_the_pair_negates_the_margin() -> None:
    logp, ref = [[-1.0], [-2.5]], [[-2.0], [-1.0]]
    margins = [
        dpo.loss(rows(a, group_size=2, ref=b), config("dpo")).metrics["margin"]
        for a, b in ((logp, ref), (logp[::-1], ref[::-1]))
    ]
    assert margins[0] == -margins[1] != 0


def test_dpo_drops_a_pair_with_an_emptied_response() -> None:
    batch = rows(
        [[-1.0], [-2.0], [-1.0], [-3.0]], [[1], [0], [1], [1]], group_size=2, ref=[[-1.0]] * 4
    )
    out = dpo.loss(batch, config("dpo", beta=1.0))
    # only the second pair, margin 0 - (-2) = 2, over itself
    assert out.loss.item() == pytest.approx(math.log(1 + math.exp(-2)))
    assert not grad(out.loss, batch.logp_NT)[:2].any()
    assert out.metrics["margin"] == pytest.approx(2)


@pytest.mark.parametrize("group_size", [1, 3])
def test_dpo_wants_pairs(group_size: int) -> None:
    with pytest.raises(ValueError, match="not preference pairs"):
        dpo.loss(rows([[-1.0]] * 3, group_size=group_size, ref=[[-1.0]] * 3), config("dpo"))


def test_sft_is_the_mean_nll_per_token() -> None:
    generator = torch.Generator().manual_seed(0)
    logits_NTV = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    ids = [[1, 4, 0], [2, 3, 3]]
    mask = [[1, 1, 1], [1, 0, 0]]
    logp_NT = logits_NTV.log_softmax(2).gather(2, torch.tensor(ids)[..., None])[..., 0]
    batch = rows(logp_NT.tolist(), mask)
    # four real tokens, each by its own cross-entropy
    nll = [
        torch.nn.functional.cross_entropy(logits_NTV[n, t], torch.tensor(ids[n][t]))
        for n in range(2)
        for t in range(3)
        if mask[n][t]
    ]
    out = sft.loss(batch, config("sft"))
    close(out.loss.detach(), torch.stack(nll).mean())
    assert grad(out.loss, batch.logp_NT).tolist() == [[-0.25] * 3, [-0.25, 0, 0]]


def test_sft_row_weights_weigh_tokens_above_and_below() -> None:
    # weights 1 and 3 on rows of 2 and 1 tokens: (1*(1 + 2) + 3*4) / (1*2 + 3*1) = 15/5
    batch = rows(
        [[-1, -2], [-4, 9]],
        [[1, 1], [1, 0]],
        row_weight_N=torch.tensor([1.0, 3.0], dtype=torch.float64),
    )
    assert sft.loss(batch, config("sft")).loss.item() == pytest.approx(3)
