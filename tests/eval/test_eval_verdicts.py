"""Verdicts on single printed numbers, by hand."""

from __future__ import annotations

import pytest

from eval import verdicts
from eval.artifacts import Published
from eval.verdicts import verdict


def said(value="0.50", std="", low=0.4, high=0.6, seeds=3, scale="paper", spread=1.0, ours=0.5, exact=False):
    return verdict(Published(value, std, ""), ours, low, high, seeds, scale, spread, exact)


@pytest.mark.parametrize(("case", "word"), [
    ({}, verdicts.SUPPORTED), ({"value": ""}, verdicts.NOT_PUBLISHED), ({"value": "n/a"}, verdicts.NOT_CHECKABLE),
    ({"scale": "tiny"}, verdicts.STAND_IN),
    # half a unit of the last digit is 0.005
    ({"low": 0.504}, verdicts.SUPPORTED), ({"low": 0.506}, verdicts.CONTRADICTED), ({"low": 0.506, "seeds": 2}, verdicts.CONTRADICTED),
    ({"low": 0.506, "seeds": 1}, verdicts.INCONCLUSIVE), ({"high": 0.496}, verdicts.SUPPORTED), ({"high": 0.494}, verdicts.CONTRADICTED),
    # and 1.96 of a printed deviation, where it is one, is 0.196
    ({"std": "0.1", "low": 0.7, "high": 0.8}, verdicts.SUPPORTED), ({"std": "0.1", "low": 0.702, "high": 0.8}, verdicts.CONTRADICTED),
    ({"std": "-", "low": 0.506}, verdicts.CONTRADICTED),
    # as wide as the rows differ is narrow enough
    ({"low": 0.25, "high": 0.75, "spread": 0.5}, verdicts.SUPPORTED), ({"low": 0.25, "high": 0.75, "spread": 0.49}, verdicts.INCONCLUSIVE),
    ({"value": "1,000", "ours": 1000, "exact": True}, verdicts.MATCHES), ({"value": "1e-6", "ours": 2e-6, "exact": True}, verdicts.DIFFERS),
    ({"value": "cosine ", "ours": "cosine", "exact": True, "scale": "tiny"}, verdicts.MATCHES),
    ({"value": "8", "ours": "none", "exact": True}, verdicts.DIFFERS),
])
def test_a_verdict(case, word):
    assert said(**case) == word


def test_what_was_not_published_has_none():
    assert verdict(None, 1.0, 0.0, 2.0, 3, "paper", 1.0) == verdicts.NOT_PUBLISHED
