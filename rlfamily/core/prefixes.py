"""Log-ratios of a group's prefixes: what a method that compares responses before they end looks at.

A group has `total` positions 1..total, and position t stands for the first t tokens (or steps) of
each of its K responses; a response that has ended stays as it is. Letters beside the usual ones: Q
positions at which something can still change, at most `total`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from rlfamily.core.masking import divide_or_zero, expectation_over_rows
from rlfamily.core.shapes import check


@dataclass(frozen=True)
class Prefixes:
    """The prefixes of B groups.

    log_ratio_BKQ  log pi(prefix)/pi_old(prefix), summed over the prefix's tokens, gradient flows
    width_BKQ      tokens of the response between this position and the one before
    count_BQ       how many of the positions 1..total this one stands for: 0 beyond the group's end
    """

    log_ratio_BKQ: Tensor
    width_BKQ: Tensor
    count_BQ: Tensor

    @property
    def total_B(self) -> Tensor:
        """Positions of each group; 0 for a group without tokens."""
        return self.count_BQ.sum(1)


def token_prefixes(log_ratio_NT: Tensor, mask_NT: Tensor, group_size: int, max_length: int | None) -> Prefixes:
    """A position is a token; total is the longest response of the group, or `max_length` for every group.

    With `max_length` the positions behind the longest response all equal the last one.
    """
    check(log_ratio_NT=log_ratio_NT, mask_NT=mask_NT)
    width_BKT = _grouped(mask_NT, group_size)
    return _prefixes(_grouped(log_ratio_NT, group_size).cumsum(2), width_BKT, max_length)


def step_prefixes(log_ratio_NT: Tensor, mask_NT: Tensor, step_ends_NS: Tensor, group_size: int) -> Prefixes:
    """A position is a reasoning step; total is the number of steps of the member that has most."""
    check(log_ratio_NT=log_ratio_NT, mask_NT=mask_NT, step_ends_NS=step_ends_NS)
    length_N1 = mask_NT.sum(1, keepdim=True).long()
    ends_NS = step_ends_NS.minimum(length_N1)  # an emptied row has no steps left
    sums_NT = torch.nn.functional.pad(log_ratio_NT.cumsum(1), (1, 0))
    width_NS = ends_NS - torch.nn.functional.pad(ends_NS[:, :-1], (1, 0))
    log_ratio_BKS = _grouped(sums_NT.gather(1, ends_NS), group_size)
    return _prefixes(log_ratio_BKS, _grouped(width_NS.to(mask_NT.dtype), group_size), None)


def whole_prefixes(log_ratio_NT: Tensor, mask_NT: Tensor, group_size: int) -> Prefixes:
    """One position: the whole response."""
    check(log_ratio_NT=log_ratio_NT, mask_NT=mask_NT)
    log_ratio_BK1 = _grouped(log_ratio_NT.sum(1, keepdim=True), group_size)
    return _prefixes(log_ratio_BK1, _grouped(mask_NT.sum(1, keepdim=True), group_size), None)


def drawn_counts(prefixes: Prefixes, draws: int | None, generator: Generator | None) -> Tensor:
    """How often each position is drawn, (B, Q), in `draws` draws without replacement from 1..total; None takes all.

    One draw per group, shared by its members. A group with no more than `draws` positions is taken whole.
    """
    count_BQ = prefixes.count_BQ
    if draws is None:
        return count_BQ
    chosen = []
    for counts in count_BQ.long().cpu():
        total = int(counts.sum())
        if total <= draws:
            chosen.append(counts)
            continue
        drawn = torch.randperm(total, generator=generator)[:draws]
        behind = torch.searchsorted(counts.cumsum(0), drawn, right=True)
        chosen.append(torch.bincount(behind, minlength=len(counts)))
    return torch.stack(chosen).to(count_BQ)


def mean_abs_log_ratio(prefixes: Prefixes, group_weight_B: Tensor) -> Tensor:
    """How far groups are from ratio 1: mean |log ratio| over their positions and members with tokens, a scalar."""
    sum_B = (prefixes.count_BQ * prefixes.log_ratio_BKQ.detach().abs().sum(1)).sum(1)
    members_B = (prefixes.width_BKQ > 0).any(2).sum(1)
    return expectation_over_rows(sum_B / (prefixes.total_B * members_B).clamp(min=1), group_weight_B)


def draw_variance(
    pull_BKQ: Tensor, prefixes: Prefixes, draws: int | None, group_weight_B: Tensor
) -> Tensor:
    """Variance of dL/dlogp over the draw of positions, relative to its squared expectation: a scalar, exact.

    pull_BKQ is dL_t/dc of each member at each position. A mean of m of n positions drawn without
    replacement has the variance (1/m - 1/n) S^2, S^2 that of the n positions with n-1 (finite population); here
    a position's value is a vector, pull times 1 on the tokens of its prefix. Groups are independent.
    """
    if draws is None:
        return pull_BKQ.new_zeros(())
    total_B = prefixes.total_B.clamp(min=1)
    count_B1Q = prefixes.count_BQ[:, None]
    square_B = (count_B1Q * pull_BKQ.square() * prefixes.width_BKQ.cumsum(2)).sum((1, 2))
    ahead_BKQ = (count_B1Q * pull_BKQ).flip(2).cumsum(2).flip(2) / total_B[:, None, None]
    mean_square_B = (prefixes.width_BKQ * ahead_BKQ.square()).sum((1, 2))
    spread_B = (square_B - total_B * mean_square_B).clamp(min=0) / (total_B - 1).clamp(min=1)
    variance_B = (1 / draws - 1 / total_B).clamp(min=0) * spread_B
    weight_B = group_weight_B.square()
    return divide_or_zero((weight_B * variance_B).sum(), (weight_B * mean_square_B).sum())


def _grouped(x_NQ: Tensor, group_size: int) -> Tensor:
    if len(x_NQ) % group_size:
        raise ValueError(f"{len(x_NQ)} rows are not whole groups of {group_size}")
    return x_NQ.view(-1, group_size, x_NQ.shape[1])


def _prefixes(log_ratio_BKQ: Tensor, width_BKQ: Tensor, max_length: int | None) -> Prefixes:
    # Some member still grows at every position up to the group's last, so counting those positions finds it.
    count_BQ = (width_BKQ > 0).any(1).to(log_ratio_BKQ.dtype)
    if max_length is not None:
        count_BQ = _up_to(count_BQ, max_length)
    return Prefixes(log_ratio_BKQ, width_BKQ, count_BQ)


def _up_to(count_BQ: Tensor, max_length: int) -> Tensor:
    """The last position of each group stands for all behind it too; a group without tokens has none."""
    total_B = count_BQ.sum(1)
    if int(total_B.max()) > max_length:
        raise ValueError(f"a response has {int(total_B.max())} tokens, more than max_length={max_length}")
    position_Q = torch.arange(1, count_BQ.shape[1] + 1, device=count_BQ.device)
    return count_BQ + (position_Q == total_B[:, None]) * (max_length - total_B[:, None])
