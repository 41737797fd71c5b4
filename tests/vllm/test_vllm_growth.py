"""Rows that grow in vLLM, part by part, against those that grow in a session of the torch engine."""

from __future__ import annotations

import pytest
import torch
from tiny import CPU, finetuning, machine, save_policy

from rlfamily.rollout import SamplingParams
from rlfamily.rollout.engines import frozen

pytestmark = pytest.mark.vllm

PROMPTS = [[5, 7, 9], [5, 7, 9], [6, 8], [10, 11, 12, 13]]


def test_parts_forks_and_options_are_those_of_the_torch_engine(tmp_path_factory):
    folder = save_policy(tmp_path_factory.mktemp("policy"))
    place = machine(tmp_path_factory.mktemp("work"))
    params = SamplingParams(greedy=True, temperature=1.0, max_total_tokens=40, min_new_tokens=3)
    ours, theirs = (frozen(folder, finetuning(), CPU, name, place, 40)[0].grow(PROMPTS, params, range(4))
                    for name in ("vllm", "torch"))

    def same():
        assert ours.running == theirs.running
        assert [(row.ids, row.truncated) for row in ours.completions()] == [
            (row.ids, row.truncated) for row in theirs.completions()]

    for count in (4, 30, 200):  # more than vLLM tells unasked, more than there are
        (tokens, logps), (others, other_logps) = ours.options(count), theirs.options(count)
        if count == 200:
            there = [sum(logp > -torch.inf for logp in some) for some in other_logps]
            others = [some[:size] for some, size in zip(others, there, strict=True)]
            assert list(map(sorted, tokens)) == list(map(sorted, others)), "all but ends, which come too early"
        else:
            assert [set(some) for some in tokens] == [set(some) for some in others]
    for growth in (ours, theirs):
        growth.draw(3)
    same()
    (tokens, logps), (others, other_logps) = ours.options(8), theirs.options(8)
    assert tokens == others
    torch.testing.assert_close(torch.tensor(logps), torch.tensor(other_logps), atol=2e-4, rtol=1e-3)
    for growth in (ours, theirs):
        growth.append([some[1 + place % 3] for place, some in enumerate(tokens)])
        growth.select([1, 0, 2, 3])
        growth.draw(5, rows=[1, 3])
        growth.draw(4)
    same()
