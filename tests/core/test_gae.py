"""Advantages of a critic, and how sharp the weights of groups are, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rlfamily import core

MASK = torch.tensor([[1.0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
NAN = math.nan  # what a pad holds must not matter


def tensor(*rows: object) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_what_a_response_earns_falls_on_its_last_token() -> None:
    assert core.at_last_token(tensor(5, 7, 9), MASK).tolist() == [[0, 0, 5, 0], [7, 0, 0, 0], [0, 0, 0, 0]]


def test_sums_to_go() -> None:
    x_NT = tensor([1, 2, 4, NAN], [8, NAN, NAN, NAN], [NAN] * 4)
    assert core.sums_to_go(x_NT, MASK).tolist() == [[7, 6, 4, 0], [8, 0, 0, 0], [0, 0, 0, 0]]


def test_generalized_advantages() -> None:
    rewards_NT = tensor([1, 0, 2, NAN], [3, NAN, NAN, NAN], [NAN] * 4)
    values_NT = tensor([0.5, 1, 1.5, NAN], [1, NAN, NAN, NAN], [NAN] * 4)
    found_NT = core.generalized_advantages(rewards_NT, values_NT, MASK, gamma=0.5, lam=0.25)
    # deltas 1 + 0.5 - 0.5, 0 + 0.75 - 1 and 2 - 1.5; each with an eighth of what follows
    assert found_NT[0].tolist() == [1 + (-0.25 + 0.5 / 8) / 8, -0.25 + 0.5 / 8, 0.5, 0]
    assert found_NT[1:].tolist() == [[2, 0, 0, 0], [0, 0, 0, 0]]


def test_weights_are_as_sharp_as_their_entropy_and_their_largest_share_say() -> None:
    log_weight_BK = tensor([1, 3], [2, 2], [60, 20]).log()
    found = core.to_floats(core.weight_metrics(log_weight_BK, tensor(1, 3, 0)))
    entropies = [-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)), math.log(2)]
    assert found == pytest.approx({
        "weight_entropy": (entropies[0] + 3 * entropies[1]) / 4, "weight_max": (0.75 + 3 * 0.5) / 4,
        "weight_scale_log_range": math.log(80 / 4)})
