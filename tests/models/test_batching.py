"""Rows cut into passes by their tokens."""

from __future__ import annotations

import pytest
import torch

from rlfamily.models.batching import Rows, pad
from rlfamily.models.layouts.packed import PackedLayout
from rlfamily.models.layouts.padded import PaddedLayout, inputs
from rlfamily.models.layouts.shared_prefix import new_prompts, pack

# Three prompts of 3, 2 and 4 tokens, the first one's group met again at the end.
ROWS = pad(Rows([[5, 6, 7]] * 3 + [[8, 9]] * 2 + [[3, 4, 5, 6]] + [[5, 6, 7]],
                [[3], [3, 4], [3, 4, 5], [3], [], [3, 4, 5, 6, 7], [3, 4]]), 0)
COUNT, LENGTH = inputs(ROWS)["input_ids"].shape


def tokens(part, shared):
    """Of a pass: prompts once and completions, or the whole rectangle."""
    if not shared:
        return inputs(ROWS[part])["input_ids"].numel()
    return pack(ROWS[part]).prompts.tokens + int(ROWS.mask_NT[part].sum())


def spans(rows, budget, shared, start, stop):
    return (PackedLayout() if shared else PaddedLayout()).cut(rows, budget, start, stop)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("budget", [1, 6, 9, 10, 11, 18, 27, 30, 10**6])
@pytest.mark.parametrize(("start", "stop"), [(0, COUNT), (2, 6), (1, 2)])
def test_a_pass_is_as_long_as_the_budget_lets_it_be(shared, budget, start, stop):
    parts = spans(ROWS, budget, shared, start, stop)
    assert [row for part in parts for row in range(part.start, part.stop)] == list(range(start, stop))
    for part in parts:
        assert tokens(part, shared) <= budget or part.stop - part.start == 1
        assert part.stop == stop or tokens(slice(part.start, part.stop + 1), shared) > budget


def test_hand_worked():
    assert spans(ROWS, 9, True, 0, COUNT) == [slice(0, 3), slice(3, 5), slice(5, 6), slice(6, 7)]  # 9, 5, 9 and 5 tokens
    assert spans(ROWS, 2 * LENGTH, False, 0, COUNT) == [slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 7)]


@pytest.mark.parametrize("shared", [True, False])
def test_a_process_may_have_no_row(shared):
    assert spans(ROWS, 9, shared, 3, 3) == spans(ROWS, 9, shared, COUNT + 1, COUNT) == []


def test_prompts_are_compared_by_their_real_tokens():
    """A pad may have the id of a word."""
    rows = pad(Rows([[5, 6], [6], [5, 6], [5, 6]], [[3]] * 4), 5)
    assert new_prompts(rows).tolist() == [True, True, True, False]
    assert new_prompts(rows[torch.tensor([0, 2, 3])]).tolist() == [True, False, False]
