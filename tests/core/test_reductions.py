"""Masked sums, means and the four reductions, with the working beside the number."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rlfamily import core

NAN = float("nan")


def tensor(*values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_P4_the_four_reductions_differ() -> None:
    # lengths 2 and 10, +1 and -1 on every token
    mask_NT = (torch.arange(10) < torch.tensor([[2], [10]])).double()
    x_NT = tensor(1, -1)[:, None].expand(2, 10)
    assert core.seq_sum_batch_mean(x_NT, mask_NT, None) == -4  # (2 - 10)/2
    assert core.seq_mean_batch_mean(x_NT, mask_NT, None) == 0  # (1 - 1)/2
    assert core.token_mean(x_NT, mask_NT, None).item() == pytest.approx(
        -8 / 12
    )  # (2 - 10)/(2 + 10)
    assert core.fixed_len(x_NT, mask_NT, None, 10).item() == pytest.approx(-0.4)  # (2 - 10)/(2*10)


def test_row_weights() -> None:
    # row sums 3 and 5, row means 1.5 and 5, weights 1 and 3
    x_NT, mask_NT, weight_N = tensor([1, 2], [5, 9]), tensor([1, 1], [1, 0]), tensor(1, 3)
    assert core.seq_sum_batch_mean(x_NT, mask_NT, weight_N) == 4.5  # (3 + 15)/4
    assert core.seq_mean_batch_mean(x_NT, mask_NT, weight_N).item() == 4.125  # (1.5 + 15)/4
    assert core.token_mean(x_NT, mask_NT, weight_N).item() == pytest.approx(
        18 / 5
    )  # (3 + 15)/(1*2 + 3*1)
    assert core.fixed_len(x_NT, mask_NT, weight_N, 2) == 2.25
    named = [core.named_reduction(name, 2)(x_NT, mask_NT, weight_N).item() for name in ("token_mean", "seq_mean", "fixed_len")]
    assert named == [core.token_mean(x_NT, mask_NT, weight_N).item(), 4.125, 2.25]


def test_sums_and_means_per_row() -> None:
    x_NT, mask_NT = (
        tensor([1, 2, NAN], [4, NAN, NAN], [NAN, NAN, NAN]),
        tensor([1, 1, 0], [1, 0, 0], [0, 0, 0]),
    )
    assert core.sum_over_tokens(x_NT, mask_NT).tolist() == [3, 4, 0]
    assert core.mean_over_row_tokens(x_NT, mask_NT).tolist() == [1.5, 4, 0]
    assert core.nonempty_weights(mask_NT, None).tolist() == [1, 1, 0]
    assert core.nonempty_weights(mask_NT, tensor(2, 3, 4)).tolist() == [2, 3, 0]


@pytest.mark.parametrize("reduction", ["seq_sum_batch_mean", "seq_mean_batch_mean", "token_mean"])
@pytest.mark.parametrize("weighted", [False, True])
def test_nothing_at_all_gives_zero_and_a_zero_gradient(reduction: str, weighted: bool) -> None:
    x_NT = tensor([1, NAN], [2, 3]).requires_grad_()
    weight_N = tensor(0, 0) if weighted else None
    mask_NT = tensor([1, 0], [1, 1]) if weighted else torch.zeros(2, 2, dtype=torch.float64)
    value = getattr(core, reduction)(x_NT, mask_NT, weight_N)
    assert value == 0
    assert not torch.autograd.grad(value, x_NT)[0].any()


def test_expectation_over_rows() -> None:
    assert core.expectation_over_rows(tensor(1, 3), None) == 2
    assert core.expectation_over_rows(tensor(1, 3), tensor(3, 1)) == 1.5


def test_check_names_the_culprit() -> None:
    core.check(x_NT=torch.zeros(2, 3), y_N=torch.zeros(2), z_T=torch.zeros(3), w_N=None)
    with pytest.raises(ValueError, match=r"y_N: shape \(3,\) but N=2"):
        core.check(x_NT=torch.zeros(2, 3), y_N=torch.zeros(3))
    with pytest.raises(ValueError, match=r"x_NT: shape \(2,\) does not have the axes NT"):
        core.check(x_NT=torch.zeros(2))


SHAPES = {"NT": (2, 3), "N": (2,), "NS": (2, 2), "B": (1,)}


@pytest.mark.parametrize(("function", "names", "rest"), [
    (core.log_ratios, ["logp_NT", "other_logp_NT", "mask_NT"], ()),
    (core.token_mean, ["x_NT", "mask_NT", "row_weight_N"], ()),
    (core.expectation_over_rows, ["x_N", "row_weight_N"], ()),
    (core.nonempty_weights, ["mask_NT", "row_weight_N"], ()),
    (core.masked, ["x_NT", "mask_NT"], ()),
    (core.at_last_token, ["x_N", "mask_NT"], ()),
    (core.generalized_advantages, ["rewards_NT", "values_NT", "mask_NT"], (1.0, 1.0)),
    (core.step_starts, ["step_ends_NS", "mask_NT"], ()),
    (core.token_prefixes, ["log_ratio_NT", "mask_NT"], (2, None)),
    (core.whole_prefixes, ["log_ratio_NT", "mask_NT"], (2,)),
])
def test_what_would_be_stretched_to_fit_is_refused(function: Any, names: list[str], rest: tuple[Any, ...]) -> None:
    """torch repeats an axis of length 1 in silence: one row's number would stand for all, or one token's."""
    fits = [torch.ones(SHAPES[name.rpartition("_")[2]]) for name in names]
    function(*(one.long() if name.endswith("NS") else one for name, one in zip(names, fits, strict=True)), *rest)
    for place, name in enumerate(names):
        short = [one[:1] if place == other else one for other, one in enumerate(fits)]
        with pytest.raises(ValueError, match=r"_N\w*: shape"):
            function(*short, *rest)
        if name.endswith("NT") and sum("T" in one for one in names) > 1:
            narrow = [one[:, :1] if place == other else one for other, one in enumerate(fits)]
            with pytest.raises(ValueError, match=r"_NT: shape"):
                function(*narrow, *rest)


def test_require() -> None:
    x = torch.zeros(1)
    assert core.require(x, "old_logp_NT") is x
    with pytest.raises(ValueError, match="old_logp_NT"):
        core.require(None, "old_logp_NT")
