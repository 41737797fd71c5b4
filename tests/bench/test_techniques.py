"""Techniques can be switched off, and then the numbers are the same."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from bench import techniques
from bench.drawing import TINY, draws, random_policy

GIVEN = draws([5, 5], 3, 6, 40)


def test_every_technique_is_timed_and_counted():
    result = techniques.run(quick=True)
    (table,) = result["tables"]
    assert len(table["rows"]) == len(list(techniques.techniques(TINY, GIVEN)))
    for row in table["rows"]:
        assert row["ratio"] == row["on"]["median"] / row["off"]["median"] > 0
        assert (row["lines"] > 0) == (row["technique"] != "several passes in place of one (memory)")


@pytest.mark.parametrize("change", ["padded", "masked", "log-probs", "passes", "again"])
def test_both_sides_give_the_same_gradient(change):
    policy, rows = random_policy(TINY, 16), techniques.random_rows(GIVEN, 40)
    slope_NT = torch.randn(rows.mask_NT.shape)
    seen = []
    policy.model.zero_grad = lambda: seen.append([weight.grad.clone() for weight in policy.model.parameters()])
    update = partial(techniques.updated, policy, rows, slope_NT)
    update()
    for weight in policy.model.parameters():
        weight.grad = None
    if change == "padded":
        other = techniques.unshared(policy)
        other.model.zero_grad = lambda: seen.append([weight.grad.clone() for weight in other.model.parameters()])
        techniques.updated(other, rows, slope_NT)
    elif change == "masked":
        techniques.patched(update, techniques.shared_prefix, IN_PARTS=frozenset())()
    elif change == "log-probs":
        techniques.patched(update, techniques.core, token_logprobs=techniques.plain_logprobs)()
    else:
        techniques.stepped(policy, rows, slope_NT, 12, again=change == "again")
    first, second = seen
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
