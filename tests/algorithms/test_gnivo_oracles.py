"""GN-IVO's loss against closed forms: G4, G7, G8, X2, weights, draws, steps. What it converges to: tests/theory."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from world import build, close, config, grad, loss_grad, rollouts, rows

from rlfamily import core
from rlfamily.algorithms import LossBatch, get, gnivo, needs

WORLD = build(vocab=3, length=3, eos=True)
NO_KL = {"coef": 0.0, "form": "k3", "place": "loss"}


def settings(**changes: Any) -> Any:
    return config("gnivo", **{"kl": NO_KL, "alpha": 0.7, **changes})


def moved(shift: float = 0.3, **fields: Any) -> LossBatch:
    """Two groups of three, lengths 4 2 1 and 3 3 5, some way from ratio 1."""
    generator = torch.Generator().manual_seed(3)
    old_NT, move_NT = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
    mask_NT = (torch.arange(5) < torch.tensor([[4], [2], [1], [3], [3], [5]])).double()
    rewards_N = torch.randn(6, generator=generator, dtype=torch.float64)
    return LossBatch((old_NT + shift * move_NT).requires_grad_(), mask_NT, rewards_N, 3, old_logp_NT=old_NT, **fields)


def by_definition(batch: LossBatch, alpha: float, positions: list[list[int]]) -> Tensor:
    """dL/dlogp of 4.2, A_ij = mean over t of [t > j] (w_i - softmax_i c_t), written with loops; t from 1."""
    k = batch.group_size
    found_NT = torch.zeros_like(batch.logp_NT)
    log_ratio_NT = ((batch.logp_NT - batch.old_logp_NT) * batch.mask_NT).detach()
    for b, chosen in enumerate(positions):
        rows_K = range(b * k, b * k + k)
        weight_K = (batch.rewards_N[b * k : b * k + k] / alpha).softmax(0)
        for t in chosen:
            share_K = torch.stack([log_ratio_NT[n, :t].sum() for n in rows_K]).softmax(0)
            for i, n in enumerate(rows_K):
                found_NT[n, :t] -= (weight_K[i] - share_K[i]) / len(chosen) / len(positions)
    return found_NT * batch.mask_NT


ALL = [[1, 2, 3, 4], [1, 2, 3, 4, 5]]


def test_G4_general_gradient_of_every_prefix() -> None:
    batch = moved()
    close(loss_grad("gnivo", batch, settings()), by_definition(batch, 0.7, ALL))


def test_G4_general_gradient_of_the_whole_response() -> None:
    batch = moved()
    close(loss_grad("gnivo", batch, settings(variant="one_step")), by_definition(batch, 0.7, [[4], [5]]))


@pytest.mark.parametrize("group_size", [2, 3])
def test_G4_at_ratio_one_it_is_reinforce_with_a_fading_softmax_advantage(group_size: int) -> None:
    batch = moved(shift=0.0)
    batch = replace(batch, group_size=group_size)
    advantage_BK = (batch.rewards_N.view(-1, group_size) / 0.7).softmax(1) - 1 / group_size
    longest_B = batch.mask_NT.sum(1).view(-1, group_size).amax(1)
    fade_BT = ((longest_B[:, None] - torch.arange(5)) / longest_B[:, None]).clamp(min=0)
    fade_NT = fade_BT.repeat_interleave(group_size, 0)
    expected = -advantage_BK.flatten()[:, None] * fade_NT * batch.mask_NT / len(longest_B)
    close(loss_grad("gnivo", batch, settings()), expected)
    # one step: no fading
    expected = -advantage_BK.flatten()[:, None] * batch.mask_NT / len(longest_B)
    close(loss_grad("gnivo", batch, settings(variant="one_step")), expected)


def test_the_papers_saturated_weights() -> None:
    # K=4, alpha=.2, one right of four: w = e^5/(e^5 + 3) = .980 and 1/(e^5 + 3) = .0066; A = w - 1/4
    batch = rows([[-1.0]] * 4, rewards=[1, 0, 0, 0], group_size=4, old=[[-1.0]] * 4)
    found = -loss_grad("gnivo", batch, settings(alpha=0.2))[:, 0]
    assert found.tolist() == pytest.approx([0.7302, -0.2434, -0.2434, -0.2434], abs=1e-4)
    metrics = gnivo.loss(batch, settings(alpha=0.2)).metrics
    assert metrics["weight_max"] == pytest.approx(0.9802, abs=1e-4)
    w = [math.exp(5) / (math.exp(5) + 3)] + [1 / (math.exp(5) + 3)] * 3
    assert metrics["weight_entropy"] == pytest.approx(-sum(x * math.log(x) for x in w))
    assert metrics["weight_scale_log_range"] == 0


def test_gnivo_hand_worked() -> None:
    # c_1 = (ln 2, 0), c_2 = (ln 2 - ln 4, 0) = (-ln 2, 0); rewards (ln 3, 0) at alpha 1: w = (3/4, 1/4).
    # shares: t=1 (2/3, 1/3), t=2 (1/3, 2/3). L = mean of -(3/4 ln 2/3 + 1/4 ln 1/3) and -(3/4 ln 1/3 + 1/4 ln 2/3)
    ln2, ln4 = math.log(2), math.log(4)
    batch = rows([[-1 + ln2, -2 - ln4], [-1, 9]], [[1, 1], [1, 0]], [math.log(3), 0], 2, old=[[-1, -2], [-1, 3]])
    out = gnivo.loss(batch, settings(alpha=1.0))
    expected = -(math.log(2 / 3) + math.log(1 / 3)) / 2
    assert out.loss.item() == pytest.approx(expected) == out.metrics["pg_loss"]
    assert out.metrics["log_ratio_abs"] == pytest.approx((ln2 / 2 + ln2 / 2) / 2)
    # row 1, token 0: -(3/4 - 2/3 + 3/4 - 1/3)/2 = -1/4; token 1: -(3/4 - 1/3)/2 = -5/24; row 2: the opposite of token 0
    assert grad(out.loss, batch.logp_NT).flatten().tolist() == pytest.approx([-1 / 4, -5 / 24, 1 / 4, 0])


def test_equal_rewards_teach_nothing_at_ratio_one() -> None:
    batch = moved(shift=0.0)
    batch = replace(batch, rewards_N=torch.ones_like(batch.rewards_N))
    close(loss_grad("gnivo", batch, settings()), torch.zeros(6, 5, dtype=torch.float64), 1e-15)


def test_G7_unnormalised_weights_let_one_prompt_own_the_step() -> None:
    # exp(3/.2) = e^15 = 3.3e6 between a group of reward 3 and one of reward 0
    batch = rows([[-1.0], [-1.2], [-1.0], [-1.2]], rewards=[3, 3, 0, 0], group_size=2, old=[[-1.0]] * 4)
    chosen = settings(alpha=0.2, weights="unnormalised")
    out = gnivo.loss(batch, chosen)
    gradient = loss_grad("gnivo", batch, chosen)[:, 0]
    assert out.metrics["weight_scale_log_range"] == pytest.approx(15)
    assert out.metrics["weight_shift"] == 0
    assert (gradient[0] / gradient[2]).item() == pytest.approx(math.exp(15))


def test_G7_exponents_that_fp32_cannot_hold_keep_their_proportions() -> None:
    # R/alpha = 500 and 495: one number less for all, so that the largest is 20
    batch = rows([[-1.0], [-1.2], [-1.0], [-1.2]], rewards=[100, 100, 99, 99], group_size=2, old=[[-1.0]] * 4,
                 dtype=torch.float32)
    chosen = settings(alpha=0.2, weights="unnormalised")
    gradient = loss_grad("gnivo", batch, chosen)[:, 0]
    assert gnivo.loss(batch, chosen).metrics["weight_shift"] == pytest.approx(480)
    assert gradient.isfinite().all()
    assert (gradient[0] / gradient[2]).item() == pytest.approx(math.exp(5), rel=1e-4)


def test_weights_by_definition() -> None:
    # alpha 1, rewards ln of (1, 2 | 3, 4); at c = 0 the gradient is -(w_i - W/2)/2
    batch = rows([[-1.0]] * 4, rewards=[math.log(x) for x in (1, 2, 3, 4)], group_size=2, old=[[-1.0]] * 4,
                 running_reward=math.log(2))
    expected = {
        ("normalised", "none"): [1 / 3, 2 / 3, 3 / 7, 4 / 7],
        ("unnormalised", "none"): [1, 2, 3, 4],
        ("unnormalised", "running_mean"): [0.5, 1, 1.5, 2],
        # the others' means are (3 + 4)/2 and (1 + 2)/2
        ("batch_norm", "none"): [1 / 3.5, 2 / 3.5, 3 / 1.5, 4 / 1.5],
    }
    for (weights, shift), weight in expected.items():
        found = loss_grad("gnivo", batch, settings(alpha=1.0, weights=weights, shift=shift))[:, 0]
        w = torch.tensor(weight, dtype=torch.float64).view(2, 2)
        close(found, (-(w - w.mean(1, keepdim=True)) / 2).flatten())


def test_a_lone_group_is_divided_by_the_rewards_before_it() -> None:
    batch = rows([[-1.0]] * 2, rewards=[0.0, math.log(2)], group_size=2, old=[[-1.0]] * 2, running_reward=math.log(4))
    found = loss_grad("gnivo", batch, settings(alpha=1.0, weights="batch_norm"))[:, 0]
    assert found.tolist() == pytest.approx([0.125, -0.125])  # w = (1/4, 2/4)


def test_the_group_weights_in_the_others_mean() -> None:
    # groups weighing 1, 1, 2 are those of a batch in which the third stands twice, seen by the first
    rewards = [0.0, 0.3, 0.5, 0.1, 0.9, 0.2]
    weighted = rows([[-1.0]] * 6, rewards=rewards, group_size=2, old=[[-1.0]] * 6,
                    row_weight_N=torch.tensor([1.0, 1, 1, 1, 2, 2], dtype=torch.float64))
    repeated = rows([[-1.0]] * 8, rewards=[*rewards, 0.9, 0.2], group_size=2, old=[[-1.0]] * 8)
    chosen = settings(weights="batch_norm")
    close(loss_grad("gnivo", weighted, chosen)[:4], loss_grad("gnivo", repeated, chosen)[:4])


def test_X2_what_counts_as_T() -> None:
    # rewards (1, 0), one response of 2 tokens beside one of 7: fading (7, 6)/7, with its own T it were (2, 1)/2
    mask = [[1, 1, 0, 0, 0, 0, 0], [1] * 7]
    batch = rows([[-1.0] * 7] * 2, mask, [1.0, 0.0], 2, old=[[-1.0] * 7] * 2)
    found = loss_grad("gnivo", batch, settings())[0]
    assert (found / found[0])[:3].tolist() == pytest.approx([1, 6 / 7, 0])
    found = loss_grad("gnivo", batch, settings(t_mode="max_new_tokens", max_length=10))[1]
    assert (found / found[0]).tolist() == pytest.approx([(10 - j) / 10 for j in range(7)])
    with pytest.raises(ValueError, match="more than max_length=6"):
        gnivo.loss(batch, settings(t_mode="max_new_tokens", max_length=6))


def test_steps_are_prefixes_that_end_together() -> None:
    # steps of 2+1 tokens and of 1 token: t = 1 covers (2, 1) tokens, t = 2 covers (3, 1)
    batch = rows([[-1.1, -0.7, -2.0], [-1.0, 9, 9]], [[1, 1, 1], [1, 0, 0]], [1.0, 0.0], 2,
                 old=[[-1.0, -1.0, -1.5], [-1.2, 0, 0]], step_ends_NS=torch.tensor([[2, 3], [1, 1]]))
    c = torch.tensor([[0.2, -0.3], [0.2, 0.2]], dtype=torch.float64)  # (0.3 - 0.1, + -0.5), 0.2
    w = (torch.tensor([1.0, 0.0], dtype=torch.float64) / 0.7).softmax(0)[:, None]
    close(gnivo.loss(batch, settings(variant="step_level")).loss.detach(), -(w * c.log_softmax(0)).sum(0).mean())
    pull = (c.softmax(0) - w) / 2
    close(loss_grad("gnivo", batch, settings(variant="step_level")),
          torch.stack([torch.stack([pull[0].sum(), pull[0].sum(), pull[0, 1]]),
                       torch.stack([pull[1].sum(), pull[1, 0] * 0, pull[1, 0] * 0])]))


def test_a_group_with_fewer_steps_gets_no_further_t() -> None:
    # the ends are padded to the batch's three steps; the first group has two, the second three
    batch = moved(step_ends_NS=torch.tensor([[3, 4, 4], [2, 2, 2], [1, 1, 1], [1, 2, 3], [3, 3, 3], [2, 4, 5]]))
    alone = replace(batch, **{name: getattr(batch, name)[:3] for name in ("logp_NT", "mask_NT", "rewards_N", "old_logp_NT")},
                    step_ends_NS=batch.step_ends_NS[:3, :2])
    chosen = settings(variant="step_level")
    both, one = loss_grad("gnivo", batch, chosen)[:3], grad(gnivo.loss(alone, chosen).loss, batch.logp_NT)[:3]
    close(both, one / 2)
    close(one, 2 * by_definition(batch, 0.7, [[3, 4], [1]])[:3])


def test_an_emptied_row_keeps_its_weight_and_has_no_gradient() -> None:
    # ratio 1, w - 1/K as before; the emptied row's own is gone, and T is the longest that is left
    batch = moved(shift=0.0)
    emptied = replace(batch, mask_NT=batch.mask_NT.index_fill(0, torch.tensor([0]), 0))
    found = loss_grad("gnivo", emptied, settings())
    weight_K = (batch.rewards_N[:3] / 0.7).softmax(0)
    assert not found[0].any()
    close(found[1, :2], -(weight_K[1] - 1 / 3) * torch.tensor([1, 1 / 2], dtype=torch.float64) / 2)


def drawn(batch: LossBatch, m: int, seed: int) -> LossBatch:
    return replace(batch, generator=torch.Generator().manual_seed(seed))


def test_the_draw_is_one_for_the_group_and_without_replacement() -> None:
    batch = moved()
    for seed in range(20):
        found = loss_grad("gnivo", drawn(batch, 2, seed), settings(sampled_t=2))
        choices = [[[a, b] for a in range(1, n) for b in range(a + 1, n + 1)] for n in (4, 5)]
        for group, pairs_of_t in enumerate(choices):
            span = slice(3 * group, 3 * group + 3)
            other = ALL[1 - group]
            matches = [pair for pair in pairs_of_t if torch.allclose(
                by_definition(batch, 0.7, [pair, other] if group == 0 else [other, pair])[span], found[span], atol=1e-12)]
            assert len(matches) == 1


def test_more_draws_than_positions_take_all() -> None:
    batch = moved()
    close(loss_grad("gnivo", drawn(batch, 5, 0), settings(sampled_t=5)), loss_grad("gnivo", batch, settings()))
    # the first group has 4 positions and is whole, the second has 5
    found = loss_grad("gnivo", drawn(batch, 4, 0), settings(sampled_t=4))
    close(found[:3], loss_grad("gnivo", batch, settings())[:3])


def test_the_draw_repeats_with_its_generator() -> None:
    batch, chosen = moved(), settings(sampled_t=1)
    close(loss_grad("gnivo", drawn(batch, 1, 7), chosen), loss_grad("gnivo", drawn(batch, 1, 7), chosen), 0)


@pytest.mark.parametrize("changes", [{}, {"t_mode": "max_new_tokens", "max_length": 9}, {"variant": "step_level"}],
                         ids=["tokens", "max length", "steps"])
@pytest.mark.parametrize("draws", [1, 2])
def test_G8_the_number_of_draws_changes_the_variance_only(changes: dict[str, Any], draws: int) -> None:
    # 4000 independent copies of one group: their mean is the full gradient, their spread the closed form
    copies, chosen = 4000, settings(sampled_t=draws, **changes)
    one = moved(step_ends_NS=torch.tensor([[1, 3, 4], [1, 2, 2], [1, 1, 1], [1, 2, 3], [3, 3, 3], [2, 4, 5]]))
    fields = ("logp_NT", "mask_NT", "rewards_N", "old_logp_NT", "step_ends_NS")
    one = replace(one, **{name: getattr(one, name)[3:].detach() for name in fields})
    one = replace(one, logp_NT=one.logp_NT.requires_grad_())
    many = replace(one, **{name: getattr(one, name).detach().repeat(copies, *[1] * (getattr(one, name).dim() - 1))
                           for name in fields})
    many = replace(many, logp_NT=many.logp_NT.requires_grad_(), generator=torch.Generator().manual_seed(0))
    full = loss_grad("gnivo", one, settings(**changes))
    found = copies * loss_grad("gnivo", many, chosen).view(copies, *full.shape)
    square = (found - full).square().sum((1, 2)) / full.square().sum()
    closed = gnivo.loss(drawn(one, draws, 0), chosen).metrics["t_draw_variance"]
    assert abs(square.mean() - closed) < 5 * square.std() / copies**0.5
    assert closed > 0.01
    # five standard errors of a mean of 4000 draws
    assert (found.mean(0) - full).norm() / full.norm() < 5 * (closed / copies) ** 0.5
    assert gnivo.loss(one, settings(**changes)).metrics["t_draw_variance"] == 0


def test_G8_draw_variances_of_several_groups_hand_worked() -> None:
    # one token per response beside two: hand-set pulls. Group 1: T=2, g_t pulls (1, 3) on widths (1, 1):
    # h_1 = (1, 0), h_2 = (3, 3), mean (2, 1.5), S^2 = |h_1 - m|^2 + |h_2 - m|^2 = (1 + 2.25)*2 = 6.5; m=1: 6.5 (1 - 1/2)
    # Group 2: T=1, no variance, square 4. Weighted 1:2 -> 3.25 * 1 / (6.25 * 1 + 4 * 4)
    prefixes = core.Prefixes(torch.zeros(2, 1, 2), torch.tensor([[[1.0, 1]], [[1, 0]]]), torch.tensor([[1.0, 1], [1, 0]]))
    pull = torch.tensor([[[1.0, 3]], [[2, 7]]])
    found = core.draw_variance(pull, prefixes, 1, torch.tensor([1.0, 2]))
    assert found.item() == pytest.approx(3.25 / 22.25)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"old", "ref"}),
        ({"kl": NO_KL}, {"old"}),
        ({"kl": NO_KL, "variant": "step_level"}, {"old", "steps"}),
        ({"kl": NO_KL, "sampled_t": 20}, {"old", "generator"}),
        ({"kl": NO_KL, "sampled_t": 20, "variant": "one_step"}, {"old"}),
    ],
)
def test_gnivo_asks_for_what_it_uses(changes: dict[str, Any], expected: set[str]) -> None:
    assert needs(get("gnivo"), config("gnivo", **changes)) == expected


def test_step_level_needs_steps() -> None:
    with pytest.raises(ValueError, match="step_ends_NS"):
        gnivo.loss(moved(), settings(variant="step_level"))


def test_the_kl_term_is_the_shared_one() -> None:
    logits, ref = WORLD.logits(1), WORLD.logits(2)
    batch = rollouts(WORLD, logits, WORLD.rewards(1), 2, ref=ref)
    kl = {"coef": 0.3, "form": "k2", "place": "loss"}
    extra = gnivo.loss(batch, settings(kl=kl)).loss - gnivo.loss(batch, settings()).loss
    log_ratio_NT = (batch.logp_NT - batch.ref_logp_NT) * batch.mask_NT
    weight_NT = core.require(batch.row_weight_N, "row_weight_N")[:, None] * batch.mask_NT
    close(extra.detach(), (0.3 * (weight_NT * log_ratio_NT.square() / 2).sum() / weight_NT.sum()).detach())
