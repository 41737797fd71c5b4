"""Where nothing differs there is nothing to learn: the advantage of equals is 0, not what rounding leaves."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlfamily import core

FLOATS = st.floats(min_value=-(2.0**99), max_value=2.0**99, width=32, allow_subnormal=False)


@pytest.mark.parametrize("advantage", [core.group_center, core.group_leave_one_out, core.group_zscore])
@given(reward=FLOATS, size=st.integers(min_value=2, max_value=9))
def test_equal_rewards_have_advantage_zero_whatever_their_size(advantage, reward, size):
    assert advantage(torch.full((2 * size,), reward), size).tolist() == [0.0] * 2 * size


@given(value=FLOATS, lengths=st.lists(st.integers(min_value=0, max_value=7), min_size=1, max_size=5))
def test_equal_advantages_are_whitened_to_zero(value, lengths):
    mask_NT = (torch.arange(7) < torch.tensor(lengths).unsqueeze(1)).float()
    assert core.whiten(torch.full(mask_NT.shape, value), mask_NT, None).abs().max() == 0


def test_large_rewards_differ_by_what_they_differ():
    """The same differences around 0 and around 4096 give the same advantages: both are exact in 32 bits."""
    small = torch.tensor([0.0, 1.0, 0.0, 2.0])
    for advantage in (core.group_center, core.group_leave_one_out, core.group_zscore):
        assert torch.equal(advantage(small + 4096, 4), advantage(small, 4))
