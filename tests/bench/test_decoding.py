"""The benchmark of guided decoding runs, and refuses sides that differ; its figures are nobody's promise."""

from __future__ import annotations

import pytest
import torch

from bench import decoding, searches
from rlfamily.errors import UserError


@pytest.mark.parametrize("guide", ["values", "pair"])
def test_a_row_of_the_table(guide):
    torch.set_num_threads(1)
    (case,) = decoding.cases(quick=True)
    row = decoding.measured(case, guide)
    assert row["tokens"] == 2 * 16 * 10
    assert row["ratio"] == row["ours"]["median"] / row["loop"]["median"] > 0
    assert set(row) == set(decoding.COLUMNS)


@pytest.mark.parametrize("guide", ["values", "pair"])
def test_the_guide_chooses(guide):
    """What is compared depends on the guide: a search that ignored it would return something else."""
    (case,) = decoding.cases(quick=True)
    found = searches.models(case.shape, 19)
    (row, other) = searches.ours(found, case.given, guide)
    assert len(row) == len(other) == 10 and row != other
    with torch.no_grad():
        for weight in (found.value.classifier.score.weight, found.other.model.model.norm.weight):
            weight.neg_()
    assert searches.ours(found, case.given, guide) != [row, other]


def test_sides_that_differ_are_refused(monkeypatch):
    (case,) = decoding.cases(quick=True)
    monkeypatch.setitem(searches.THEIRS, "loop", lambda *_: [[1]])
    with pytest.raises(UserError, match=r"decoding, tiny: responses of our search .* \(loop\) differ, so no time counts"):
        decoding.agree(searches.models(case.shape, 19), case.given, "values", "tiny")


def test_the_cases_are_those_of_the_issue():
    cases = decoding.cases(quick=False)
    assert {case.model for case in cases} == {"0.8M", "12.7M"}
    assert {(case.given.chunk, case.given.new_tokens) for case in cases} == {(16, 64)} and searches.WIDTH == 16
