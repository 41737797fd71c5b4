"""Claims: the operations by hand, the report's claims on its own numbers, and on numbers made to differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eval import claims, deviations
from eval.artifacts import Archive
from eval.checks import Evaluator, Side
from rlfamily import experiment
from rlfamily.errors import UserError

HERE = experiment.EXPERIMENTS
IDS = ["c1a", "c1b", *(f"c{number}" for number in range(2, 15))]

# What the report's own tables and prose say about its claims.
PUBLISHED = {
    "c1a": "supported", "c1b": "contradicted", "c2": "supported", "c3": "supported", "c4": "not checkable",
    "c5": "contradicted", "c6": "supported", "c7": "contradicted", "c8": "contradicted", "c9": "supported",
    "c10": "supported", "c11": "not checkable", "c12": "not checkable", "c13": "not checkable", "c14": "not checkable",
}
# What the synthetic runs of fixture.py were made to show.
SYNTHETIC = {
    "c1a": "supported", "c1b": "contradicted", "c2": "supported", "c3": "supported", "c4": "contradicted",
    "c5": "not checkable", "c6": "supported", "c7": "supported", "c8": "contradicted", "c9": "supported",
    "c10": "not checkable", "c11": "inconclusive", "c12": "inconclusive", "c13": "contradicted", "c14": "supported",
}


@pytest.fixture(scope="module")
def verdicts(book):
    return {result.claim.id: result for name in book.archive.names() for result in book.frame(name).claims}


def test_every_claim_is_there_once():
    there = [claim.id for claim in claims.load(HERE / "claims") if claim.paper == "TOPR"]
    assert sorted(there) == sorted(f"topr_{name}" for name in IDS)


@pytest.mark.parametrize("name", IDS)
def test_on_the_published_numbers(verdicts, name):
    assert verdicts[f"topr_{name}"].published.word == PUBLISHED[name]


@pytest.mark.parametrize("name", IDS)
def test_on_synthetic_runs(verdicts, name):
    assert verdicts[f"topr_{name}"].reproduced.word == SYNTHETIC[name]


def test_a_verdict_that_needs_a_reason_has_one(verdicts):
    for result in verdicts.values():
        for one in (result.published, result.reproduced, *result.also.values()):
            assert one.share is not None or one.reason


def test_without_results_claims_are_not_run(book, tmp_path, root):
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "topr_tab1.json").write_text((root / "index" / "topr_tab1.json").read_text())
    frame = type(book)(Archive(tmp_path)).frame("topr_tab1")
    c7 = next(result for result in frame.claims if result.claim.id == "topr_c7")
    assert (c7.reproduced.word, c7.reproduced.reason) == ("not run", "topr_fig1 has no results yet")


def test_scales_are_not_mixed(book, tmp_path, root):
    (tmp_path / "index").mkdir()
    for name in ("topr_tab1", "topr_fig1"):
        text = (root / "index" / f"{name}.json").read_text()
        text = text.replace('"scale": "tiny"', '"scale": "paper"') if name == "topr_fig1" else text
        (tmp_path / "index" / f"{name}.json").write_text(text)
    frame = type(book)(Archive(tmp_path)).frame("topr_tab1")
    c7 = next(result for result in frame.claims if result.claim.id == "topr_c7")
    assert c7.reproduced.reason == "topr_fig1 was run at scale paper"


NUMBERS = {"a": np.array([1.0, 2.0]), "b": np.array([2.0, 1.0]), "c": np.array([3.0])}


def evaluate(check):
    side = Side(lambda at: NUMBERS[at["row"]], lambda table: ["PG loss", "K"], lambda table: True)
    return Evaluator("x", side, {"table": "t", "metric": "m"}, {}).check(check).tolist()


@pytest.mark.parametrize(("check", "expected"), [
    ({"greatest": ["c", "a", "b"]}, [True, True]),
    ({"greatest": ["a", "b"]}, [False, True]),
    ({"greatest": ["a", "a"]}, [0.5, 0.5]),  # a tie speaks for neither side
    ({"not": {"greater": ["a", "a"]}}, [0.5, 0.5]),
    ({"any": [{"greater": ["a", "a"]}, {"greater": ["c", "a"]}]}, [1, 1]),
    ({"all": [{"greater": ["a", "a"]}, {"greater": ["a", "c"]}]}, [0, 0]),
    ({"least": ["a", "a", "c"]}, [0.5, 0.5]),
    ({"least": ["a", "b", "c"]}, [True, False]),
    ({"greater": ["b", "a"]}, [True, False]),
    ({"close": {"of": "a", "to": 1.5, "within": 0.5}}, [True, True]),
    ({"close": {"of": "a", "to": 1.4, "within": 0.5}}, [True, False]),
    ({"integer": {"of": {"product": ["a", 0.5]}, "within": 0.01}}, [False, True]),
    ({"member": ["a", 2, 4]}, [False, True]),
    ({"same_sign": ["a", {"difference": ["a", "c"]}]}, [False, False]),
    ({"greater": [{"exp": {"log": "a"}}, {"ratio": ["c", "b"]}]}, [False, False]),
    ({"all": [{"greater": ["c", "a"]}, {"greater": ["b", "a"]}]}, [True, False]),
    ({"any": [{"greater": ["a", "c"]}, {"greater": ["b", "a"]}]}, [True, False]),
    ({"not": {"greater": ["b", "a"]}}, [False, True]),
    ({"reports": {"table": "t", "like": "loss"}}, [True]),
    ({"reports": {"table": "t", "like": "log-prob"}}, [False]),
])
def test_operations_by_hand(check, expected):
    assert evaluate(check) == expected


@pytest.mark.parametrize("check", [
    {"greater": [{"ratio": [0, 0]}, 1]}, {"not": {"greater": [{"ratio": [0, 0]}, 1]}}, {"greater": [{"ratio": [1, 0]}, 1]},
    {"close": {"of": {"log": -1}, "to": 1, "within": 1}}, {"same_sign": [{"ratio": [0, 0]}, 1]},
    {"member": [{"ratio": [0, 0]}, 1]}, {"any": [{"greater": [{"log": 0}, 1]}]},
    {"not": {"all": [{"greater": [{"log": 0}, 1]}]}}, {"integer": {"of": {"ratio": [0, 0]}, "within": 1}},
    {"count": {"each": {"row": ["a", "b"]}, "check": {"greater": [{"ratio": [0, 0]}, 1]}}, "more_than": 1},
    {"not": {"count": {"each": {"row": ["a", "b"]}, "check": {"greater": [{"ratio": [0, 0]}, 1]}}, "more_than": 1}},
    {"greater": [{"count": {"each": {"row": ["a", "b"]}, "check": {"greater": [{"ratio": [0, 0]}, 1]}}}, 1]},
])
def test_what_is_no_number_is_not_checkable(check):
    side = Side(lambda at: NUMBERS[at["row"]], lambda table: [], lambda table: True)
    assert Evaluator("x", side, {"table": "t", "metric": "m"}, {}).verdict(check).word == "not checkable"


@pytest.mark.parametrize(("held", "word"), [(95, "supported"), (94, "inconclusive"), (92, "inconclusive"),
                                            (6, "inconclusive"), (5, "contradicted")])
def test_sure_is_95_of_100_draws(held, word):
    draws = np.array([1.0] * held + [-1.0] * (100 - held))
    side = Side(lambda at: draws, lambda table: [], lambda table: True)
    assert Evaluator("x", side, {"table": "t"}, {}).verdict({"greater": ["a", 0]}).word == word


@pytest.mark.parametrize(("check", "message"), [
    ({"greatr": ["a", "b"]}, "no operation 'greatr' (did you mean 'greater'?)"),
    ({"greater": [{"stated": "x"}, 1]}, "no stated number 'x'"),
    ({"greater": [{"row": "a", "colum": "b"}, 1]}, "is neither a number, a row"),
    ({"greater": ["a", "b"], "least": ["a"]}, "a check has one operation"),
])
def test_a_wrong_check_is_one_line(check, message):
    with pytest.raises(UserError) as error:
        evaluate(check)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_misspelt_key_in_a_claim_is_refused(tmp_path):
    (tmp_path / "x.yaml").write_text("- {id: a, paper: P, where: w, tables: [], says: s, chek: {}}\n")
    with pytest.raises(UserError, match=r"unknown key 'chek'.*did you mean 'check'"):
        claims.load(tmp_path)


def test_claims_and_deviations_name_experiments_that_exist():
    known = set(experiment.names())
    for claim in claims.load(HERE / "claims"):
        assert set(claim.tables) <= known, claim.id
    ledger = deviations.load(HERE / "deviations")
    assert len({one.id for one in ledger}) == len(ledger) >= 15
    for one in ledger:
        assert set(one.experiments) <= known, one.id


def test_deviations_of_one_scale_stay_there():
    ledger = deviations.load(HERE / "deviations")
    tiny = {one.id for one in deviations.touching(ledger, "topr_tab2", "tiny")}
    paper = {one.id for one in deviations.touching(ledger, "topr_tab2", "paper")}
    assert tiny - paper == {"stand_ins", "pg_loss_sign"}
    assert paper - tiny == {"base_model", "length", "puzzle_rows"}


def test_nothing_here_evaluates_text():
    for path in Path(claims.__file__).parent.glob("*.py"):
        assert " eval(" not in path.read_text()
        assert " exec(" not in path.read_text()
