"""The IRO paper's claims on its own printed numbers, and its ledger."""

from __future__ import annotations

from functools import cache

import pytest

from eval import claims, deviations
from eval.artifacts import Archive
from rlfamily import experiment

FOLDER = experiment.EXPERIMENTS
PUBLISHED = {
    "supported": ("c2 c3 c4a c9 c10 c11 c12 c14 c15a c21 c24 c27 c30 c37"),
    "contradicted": "c1 c4b c5 c6 c7 c8 c13 c15b c16 c17 c18 c19 c20 c22 c23 c25 c26",
    "not checkable": "c28 c29 c31 c32 c33 c34 c35 c36 eq8 improvement prop1 prop1_tokens",
}
WORDS = {f"iro_{name}": word for word, names in PUBLISHED.items() for name in names.split()}


@cache
def verdicts() -> dict[str, str]:
    side = claims.published_side(Archive(FOLDER.parent / "results"))
    found = [claim for claim in claims.load(FOLDER / "claims") if claim.paper == "IRO"]
    return {claim.id: claims.evaluate(claim, side, side).published.word for claim in found}


@pytest.mark.parametrize("name", WORDS)
def test_verdicts_on_the_printed_numbers_are_those_computed_by_hand(name: str) -> None:
    assert verdicts()[name] == WORDS[name]


def test_every_claim_is_there() -> None:
    assert verdicts().keys() == WORDS.keys()


def test_every_table_of_numbers_has_an_entry_in_the_ledger() -> None:
    ledger = [one for one in deviations.load(FOLDER / "deviations") if one.id.startswith("iro_")]
    named = {name for one in ledger for name in one.experiments}
    assert {f"iro_tab{number}" for number in (1, 2, 3, 4, 5, 6, 8, 9, 11, 12, 13, 14)} <= named
