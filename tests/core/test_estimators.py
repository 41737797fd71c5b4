"""Advantages, ratios, schedules, divergences and the metrics built on them."""

from __future__ import annotations

import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from rlfamily import core


def tensor(*values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_advantages_hand_worked() -> None:
    rewards_N = tensor(3, 0, 0, 1, 2, 3)
    # others' means: 0, 1.5, 1.5 | 2.5, 2, 1.5
    assert core.group_leave_one_out(rewards_N, 3).tolist() == [3, -1.5, -1.5, -1.5, 0, 1.5]
    # means 1 and 2
    assert core.group_center(rewards_N, 3).tolist() == pytest.approx([2, -1, -1, -1, 0, 1])
    # standard deviations sqrt((4 + 1 + 1)/2) = sqrt 3 and 1
    zscore = core.group_zscore(rewards_N, 3)
    assert zscore[0].item() == pytest.approx(2 / (math.sqrt(3) + 1e-4))
    assert zscore[5].item() == pytest.approx(1 / 1.0001)


@pytest.mark.parametrize("group_size", [2, 3, 6])
def test_L2_leave_one_out_is_the_centred_reward_enlarged(group_size: int) -> None:
    rewards_N = torch.randn(12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    enlarged = core.group_center(rewards_N, group_size) * group_size / (group_size - 1)
    torch.testing.assert_close(core.group_leave_one_out(rewards_N, group_size), enlarged)


def test_equal_rewards_have_exactly_no_advantage() -> None:
    rewards_N = torch.tensor([0.1] * 3 + [1e6 + 0.1] * 3)
    assert not core.group_leave_one_out(rewards_N, 3).any()


@pytest.mark.parametrize("name", ["group_leave_one_out", "group_zscore"])
def test_a_group_of_one_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="group_size=1"):
        getattr(core, name)(tensor(1, 2), 1)


def test_a_broken_group_is_refused() -> None:
    with pytest.raises(ValueError, match="3 rows are not whole groups of 2"):
        core.group_center(tensor(1, 2, 3), 2)


def test_log_ratios_are_inert_on_pads_and_detach_the_other() -> None:
    new, old = tensor([-1, math.nan]).requires_grad_(), tensor([-3, -9]).requires_grad_()
    ratio_NT = core.log_ratios(new, old, tensor([1, 0]))
    assert ratio_NT.tolist() == [[2, 0]]
    (gradient_NT,) = torch.autograd.grad(ratio_NT.exp().sum(), new)
    assert gradient_NT[0].tolist() == pytest.approx([math.exp(2), 0])
    assert not core.log_ratios(new.detach(), old, tensor([1, 0])).requires_grad


def test_clipped_exp() -> None:
    log_ratio = torch.tensor([500.0, 1.0, 0.0, -1.0, -500.0])
    one, zero = torch.tensor(1.0), torch.tensor(0.0)
    assert core.clipped_exp(log_ratio, zero, one).tolist() == pytest.approx(
        [1, 1, 1, math.exp(-1), 0]
    )
    assert core.clipped_exp(log_ratio, one, one).tolist() == [1] * 5
    assert core.clipped_exp(log_ratio, zero, zero).tolist() == [0] * 5
    found = core.clipped_exp(log_ratio, torch.tensor([0.0, 2.0, 0, 0.5, 0.5]), torch.tensor(3.0))
    assert found.tolist() == pytest.approx([3, math.e, 1, 0.5, 0.5])


def test_bounded_exp_saturates_its_value_and_keeps_its_gradient() -> None:
    x = torch.tensor([500.0, 1.0, -500.0], requires_grad=True)
    y = core.bounded_exp(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert y.tolist() == pytest.approx([math.exp(20), math.e, 0])
    assert gradient.tolist() == pytest.approx([math.exp(20), math.e, 0])


@pytest.mark.parametrize(
    ("schedule", "middle"),
    # exp: sqrt(5*1) half-way; cosine is half-way too, but later than linear at the start
    [("linear", 3.0), ("cosine", 3.0), ("exp", math.sqrt(5))],
)
def test_schedules(schedule: str, middle: float) -> None:
    values = [core.scheduled(5.0, 1.0, schedule, progress) for progress in (0, 0.25, 0.5, 1)]  # type: ignore[arg-type]
    assert (
        values[0] == pytest.approx(5)
        and values[2] == pytest.approx(middle)
        and values[3] == pytest.approx(1)
    )
    quarter = {"linear": 4.0, "cosine": 1 + 4 * (1 + math.sqrt(0.5)) / 2, "exp": 5**0.75}
    assert values[1] == pytest.approx(quarter[schedule])


def test_kl_forms_hand_worked() -> None:
    d = tensor(0, 2, -1)
    assert core.kl_per_token(d, "k1").tolist() == [0, 2, -1]
    assert core.kl_per_token(d, "k2").tolist() == [0, 2, 0.5]
    assert core.kl_per_token(d, "k3").tolist() == pytest.approx([0, math.exp(-2) + 1, math.e - 2])


def test_k1_and_k3_estimate_the_kl_without_bias() -> None:
    p, q = tensor(0.5, 0.3, 0.2), tensor(0.1, 0.2, 0.7)
    exact = (p * (p / q).log()).sum()
    for form in ("k1", "k3"):
        torch.testing.assert_close((p * core.kl_per_token((p / q).log(), form)).sum(), exact)


def test_kl_metrics_hand_worked() -> None:
    new, old, ref = tensor([-1, -2], [-1, 5]), tensor([-2, -2], [-3, 7]), tensor([-1, -1], [-1, 9])
    found = core.kl_metrics(new, tensor([1, 1], [1, 0]), old, ref, None)
    # old - new over three tokens: (-1 + 0 - 2)/3; new - ref: (0 - 1 + 0)/3; k3(-1) = e - 2
    assert core.to_floats(found) == pytest.approx(
        {"kl_old": -1, "kl_ref_k1": -1 / 3, "kl_ref_k3": (math.e - 2) / 3}
    )
    assert core.kl_metrics(new, tensor([1, 1], [1, 0]), None, None, None) == {}
    assert core.to_floats({}) == {}


def test_a_kl_stands_in_the_loss_or_in_the_reward() -> None:
    new, old, ref, mask = tensor([-1, -2], [-1, 5]), tensor([-2, -2], [-3, 7]), tensor([-1, -1], [-1, 9]), tensor([1, 1], [1, 0])
    in_loss, in_reward, none = (
        SimpleNamespace(coef=coef, form="k1", place=place) for coef, place in ((0.5, "loss"), (0.5, "reward"), (0.0, "reward"))
    )
    # new - ref: 0, -1, 0 over three tokens; over two rows
    assert core.kl_in_loss(in_loss, new, ref, mask, None, core.token_mean).item() == pytest.approx(-0.5 / 3)
    assert core.kl_in_loss(in_loss, new, ref, mask, None, core.seq_sum_batch_mean).item() == pytest.approx(-0.25)
    assert core.kl_in_loss(in_reward, new, None, mask, None, core.token_mean) == 0
    # old - ref: -1, -1 | -2
    assert core.kl_in_reward(in_reward, old, ref, mask).tolist() == [[-0.5, -0.5], [-1, 0]]
    assert core.penalised_rewards(in_reward, tensor(1, 1), old, ref, mask).tolist() == [2, 2]
    for pull in (in_loss, none):
        assert core.penalised_rewards(pull, tensor(1, 1), None, None, mask).tolist() == [1, 1]
    with pytest.raises(ValueError, match="ref_logp_NT"):
        core.penalised_rewards(in_reward, tensor(1, 1), old, None, mask)


def test_bounded_exponents_keep_their_differences() -> None:
    x, excess = core.bounded_exponents(tensor(5, 500, 495))
    assert x.tolist() == [-475, 20, 15] and excess == 480
    x, excess = core.bounded_exponents(tensor(5, -3))
    assert x.tolist() == [5, -3] and excess == 0


def test_prefixes_hand_worked() -> None:
    # lengths 3 and 1: at t = 2 and 3 the second stays as it is
    lr, mask = tensor([1, 2, 4, 0], [8, 0, 0, 0]), tensor([1, 1, 1, 0], [1, 0, 0, 0])
    found = core.token_prefixes(lr, mask, 2, None)
    assert found.log_ratio_BKQ.tolist() == [[[1, 3, 7, 7], [8, 8, 8, 8]]]
    assert found.count_BQ.tolist() == [[1, 1, 1, 0]] and found.total_B.tolist() == [3]
    assert core.token_prefixes(lr, mask, 2, 10).count_BQ.tolist() == [[1, 1, 8, 0]]
    whole = core.whole_prefixes(lr, mask, 2)
    assert whole.log_ratio_BKQ.tolist() == [[[7], [8]]] and whole.width_BKQ.tolist() == [[[3], [1]]]
    steps = core.step_prefixes(lr, mask, torch.tensor([[2, 3, 3], [1, 1, 1]]), 2)
    assert steps.log_ratio_BKQ.tolist() == [[[3, 7, 7], [8, 8, 8]]] and steps.count_BQ.tolist() == [[1, 1, 0]]
    assert steps.width_BKQ.tolist() == [[[2, 1, 0], [1, 0, 0]]]
    with pytest.raises(ValueError, match="whole groups of 3"):
        core.token_prefixes(lr, mask, 3, None)


def test_bradley_terry() -> None:
    assert core.bradley_terry_nll(tensor(0, 1)).tolist() == pytest.approx(
        [math.log(2), math.log(1 + math.exp(-1))]
    )
    assert core.bradley_terry_nll(torch.tensor([1e4, -1e4])).tolist() == [0, 1e4]


def test_pairs_and_groups() -> None:
    assert core.pair_differences(tensor(5, 2, 1, 4), 2).tolist() == [3, -3]
    for rows, size in ((4, 4), (3, 2)):
        with pytest.raises(ValueError, match=f"{rows} rows in groups of {size} are not preference pairs"):
            core.pair_differences(torch.zeros(rows), size)
    mask_NT = tensor([1, 1], [1, 0], [1, 0], [0, 0], [0, 0], [0, 0])
    assert core.whole_pair_weights(mask_NT, None).tolist() == [1, 0, 0]
    assert core.whole_pair_weights(mask_NT, tensor(2, 2, 3, 3, 4, 4)).tolist() == [2, 0, 0]
    assert core.group_weights(mask_NT, None, 2).tolist() == [1, 1, 0]
    assert core.group_weights(mask_NT, tensor(2, 2, 3, 3, 4, 4), 2).tolist() == [2, 3, 0]


def test_the_log_mean_of_the_other_groups() -> None:
    log_weight_BK = tensor([1, 3], [2, 2], [6, 10]).log()
    others_B = core.log_mean_of_other_groups(log_weight_BK, tensor(1, 1, 1), 7.0).exp()[:, 0]
    assert others_B.tolist() == pytest.approx([5, 5, 2])
    weighted_B = core.log_mean_of_other_groups(log_weight_BK, tensor(1, 2, 3), 7.0).exp()[:, 0]
    assert weighted_B.tolist() == pytest.approx([28 / 5, 26 / 4, 2])  # means 2, 2 and 8
    assert core.log_mean_of_other_groups(log_weight_BK[:1], tensor(1), 7.0).tolist() == [[7]]
    assert core.log_mean_of_other_groups(log_weight_BK, tensor(0, 1, 0), 7.0)[1].tolist() == [7]


def test_step_starts_hand_worked() -> None:
    # steps of two tokens and one, and of one: what repeats a row's length has no token
    starts_NT, first_NT = core.step_starts(torch.tensor([[2, 3, 3], [1, 1, 1]]), tensor([1, 1, 1, 0], [1, 0, 0, 0]))
    assert starts_NT.tolist() == [[1, 0, 1, 0], [1, 0, 0, 0]]
    assert first_NT[0, :3].tolist() == [0, 0, 2] and first_NT[1, 0] == 0


def test_values_of_a_critic() -> None:
    values_NT, mask_NT = tensor([1, math.nan]).requires_grad_(), tensor([1, 0])
    present_NT, first_NT = core.critic_values(values_NT, None, mask_NT)
    assert present_NT.tolist() == first_NT.tolist() == [[1, 0]] and present_NT.requires_grad and not first_NT.requires_grad
    assert core.critic_values(values_NT, tensor([5, 6]), mask_NT)[1].tolist() == [[5, 0]]
    with pytest.raises(ValueError, match="values_NT"):
        core.critic_values(None, None, mask_NT)


def test_the_surrogate_whitens_when_asked() -> None:
    # ratios e, 1 and 1, clipped to 1.2 where that is worse for the policy's gain: at A > 0
    log_ratio_NT, mask_NT, advantages_NT = tensor([1, 0], [0, 9]), tensor([1, 1], [1, 0]), tensor([2, -4], [5, 9])
    loss, clipped = core.surrogate_loss(log_ratio_NT, advantages_NT, mask_NT, None, 0.2, False)
    assert (loss.item(), clipped.item()) == pytest.approx(((-2.4 + 4 - 5) / 3, 1 / 3))
    white_NT = core.whiten(advantages_NT, mask_NT, None)
    loss, _ = core.surrogate_loss(log_ratio_NT, advantages_NT, mask_NT, None, 0.2, True)
    assert loss.item() == pytest.approx((-white_NT * tensor([1.2, 1], [1, 0])).sum().item() / 3)


def test_soft_bellman_losses() -> None:
    # lr 3, V 2, R 5, alpha 0.5: -(5 - 1)*3 + 0.25*9 and -(5 - 2)*3 - 0.25*9
    values = tensor(2).requires_grad_()
    found = [core.soft_bellman_loss(tensor(3), values, tensor(5), 0.5, form) for form in ("direct", "printed")]
    assert [loss.item() for loss in found] == [-9.75, -11.25] and not any(loss.requires_grad for loss in found)


def test_a_batch_of_unequal_rows_is_refused() -> None:
    core.check_batch(SimpleNamespace(logp_NT=torch.ones(2, 3), rewards_N=torch.ones(2), values_NT=None, group_size=2))
    with pytest.raises(ValueError, match="rewards_N"):
        core.check_batch(SimpleNamespace(logp_NT=torch.ones(2, 3), rewards_N=torch.ones(3)))


def test_the_public_names() -> None:
    assert all(callable(getattr(core, name)) for name in dir(core))
    with pytest.raises(AttributeError, match="no attribute 'masked_meen'"):
        core.masked_meen  # noqa: B018


def test_importing_core_does_not_import_torch() -> None:
    code = "import sys, rlfamily.core; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
