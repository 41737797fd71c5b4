"""The generation benchmark runs, counts right, and refuses sides that differ; its figures are nobody's promise."""

from __future__ import annotations

import pytest
import torch

from bench import branching, generation, theirs
from bench.drawing import TINY, draws, ours, plain_model, random_policy
from rlfamily.errors import UserError


@pytest.fixture(scope="module")
def policy():
    return random_policy(TINY, 64)


@pytest.mark.parametrize("early", [False, True])
def test_rows_end_where_the_schedule_says(policy, early):
    given = draws([3, 9, 6], 4, 12, TINY.vocab_size, early)
    assert (len(set(given.lengths)) > 5) == early and max(given.lengths) <= 12
    for rows in [[row.ids for row in ours(policy, given)], *(way(plain_model(policy), given, False) for way in theirs.WAYS.values())]:
        assert [len(ids) for ids in rows] == given.lengths
        assert [ids.index(policy.eos_id) + 1 for ids in rows] == given.lengths
        assert len({tuple(ids) for ids in rows}) > 8  # drawn, and each row by itself


def test_greedy_rows_wander_and_agree(policy):
    given = draws([3, 9, 6], 2, 12, TINY.vocab_size, early=True)
    generation.agree(policy, plain_model(policy), given, "tiny")
    assert max(len(set(row.ids)) for row in ours(policy, given, greedy=True)) > 5


def test_sides_that_differ_are_refused(policy, monkeypatch):
    given = draws([3, 9], 2, 8, TINY.vocab_size)
    monkeypatch.setitem(theirs.WAYS, "static", lambda model, given, greedy: [[1]] * 4)
    with pytest.raises(UserError, match=r"generation, tiny: greedy responses .* \(static\) differ, so no time counts"):
        generation.agree(policy, plain_model(policy), given, "tiny")


def test_a_row_of_the_table(policy):
    torch.set_num_threads(1)
    row = generation.measured(generation.cases(quick=True)[1])
    assert row["tokens"] == sum(generation.cases(quick=True)[1].given.lengths) < 2 * 3 * 8
    rates = {name: row[name]["median"] for name in (generation.OURS, *theirs.WAYS)}
    assert row["ratio"] == rates[generation.OURS] / max(rates[name] for name in theirs.WAYS) > 0
    assert set(row) == set(generation.COLUMNS)


def test_the_cases_are_those_of_the_issue():
    cases = generation.cases(quick=False)
    assert {len(case.given.lengths) for case in cases} == {64} and {case.given.new_tokens for case in cases} == {64}
    assert {len(prompt) for case in cases for prompt in case.given.prompts} >= {96, 384, 16}
    sizes = {case.model: sum(weight.numel() for weight in random_policy(case.shape, 8).model.parameters()) for case in cases}
    assert {model: f"{count / 1e6:.1f}M" for model, count in sizes.items()} == {"0.8M": "0.8M", "12.7M": "12.7M"}


def test_branches(policy, monkeypatch):
    prompts = draws([5, 9], 1, 8, TINY.vocab_size).prompts
    for size in (1, 4):
        rows = branching.forked(policy, prompts, 8, size, forks=3)
        assert rows == branching.recomputed(policy, prompts, 8, size, forks=3)
        assert [len(ids) for ids in rows] == [8, 8]
    monkeypatch.setattr(branching, "recomputed", lambda *_: [])
    with pytest.raises(UserError, match="forked rows and recomputed ones differ, so no time counts"):
        branching._row(policy, prompts, 8, 4, 1)


def test_a_branch_goes_on_as_a_plain_forward_would(policy):
    """With one fork a row is the greedy one."""
    prompt = draws([5], 1, 8, TINY.vocab_size).prompts[0]
    (row,) = branching.forked(policy, [prompt], 6, 2, forks=1)
    for place, token in enumerate(row):
        with torch.no_grad():
            assert token == int(plain_model(policy)(torch.tensor([prompt + row[:place]])).logits[0, -1].argmax())


@pytest.mark.vllm
def test_both_engines():
    (table,) = generation._vllm_table(quick=True)
    (row,) = table["rows"]
    assert row["tokens"] == 16 * 2 * 8
    assert row["ratio"] == row["torch"]["median"] / row["vllm"]["median"] > 0
    assert row["refresh"]["median"] > 0 and set(row) == set(table["columns"])
