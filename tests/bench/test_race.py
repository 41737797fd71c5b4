"""The race refuses to compare what is not the same work; with the peer installed it is run, at tiny sizes."""

from __future__ import annotations

import random
import sys

import pytest

from bench import race, work
from rlfamily.errors import UserError

CASE = race.QUICK[0]
FIRST = {"loss": 0.5, "grad_norm": 2.0, "gradient_norms": [0.0, 2.0]}


def test_the_work_is_the_same_every_time():
    pairs = race.QUICK[2]
    assert pairs.pair_texts() == pairs.pair_texts() and len(pairs.pair_texts()) == pairs.prompts * pairs.steps
    assert {len(text.split()) for text in CASE.prompt_texts()} == {CASE.prompt}
    assert work.reward("2 3 4 5 6") == 0.6 and work.reward("") == 0.0


@pytest.mark.parametrize(("change", "what"), [
    ({"loss": 0.50003}, "loss"), ({"grad_norm": 2.0001}, "gradient norm"),
    ({"gradient_norms": [0.0001, 2.0]}, "each weight"), ({"loss": float("nan")}, "loss"),
])
def test_another_first_step_stops_the_race(change, what):
    race.check(CASE, "TRL best", race.disagreement(FIRST, FIRST), exact=True)
    with pytest.raises(UserError, match=f"{what} of the first step differs .* no time counts"):
        race.check(CASE, "TRL best", race.disagreement(FIRST, FIRST | change), exact=True)


def test_bf16_may_differ_by_more():
    off = race.disagreement(FIRST, FIRST | {"loss": 0.505})
    race.check(CASE, "TRL default", off, exact=False)
    with pytest.raises(UserError, match="loss"):
        race.check(CASE, "TRL default", race.disagreement(FIRST, FIRST | {"loss": 0.6}), exact=False)


def test_other_numbers_of_tokens_stop_the_race():
    race.same_tokens(CASE, {"ours": [{"tokens": 7}], "TRL best": [{"tokens": 7}]})
    with pytest.raises(UserError, match="different numbers of tokens"):
        race.same_tokens(CASE, {"ours": [{"tokens": 7}], "TRL best": [{"tokens": 8}]})


def test_phases_and_other_make_up_the_step():
    answer = {"cpu": 1.0, "wall": 2.0, "peak_mib": 50.0, "phases": {"generation": 0.5, "update": 0.2, "other": 0.1}}
    best = answer | {"cpu": 2.0}
    found = {"case": vars(CASE), "agreement": {}, "answers": {race.BEST: [best], race.OURS: [answer]},
             "started": {race.BEST: {"base_mib": 40.0}, race.OURS: {"base_mib": 40.0}}}
    theirs, ours = race.rows_of(found)
    assert theirs["ratio"] == 1.0 and ours["ratio"] == 0.5 and ours["cpu"]["median"] == 1.0
    assert sum(ours[phase] for phase in race.PHASES) == pytest.approx(1.0) and ours["step"] == 10.0


def test_a_side_that_dies_says_why(tmp_path):
    said = "race: TRL best ended: ZeroDivisionError: division by zero"
    with race.Side([sys.executable, "-c", "input(); 1 / 0"], tmp_path, "TRL best") as side, \
            pytest.raises(UserError, match=said):
        side.order()


def test_without_the_peer_the_race_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(race, "PEER", tmp_path / "bin/python")
    with pytest.raises(UserError, match="make setup-peer"):
        race.run(quick=True)


def test_words_are_tokens():
    from rlfamily.models import scratch

    tokenizer = scratch.train_tokenizer(map(str, range(work.WORDS)))
    assert len(tokenizer) == work.VOCABULARY
    ids = random.Random(0).sample(range(work.SPECIAL, work.VOCABULARY), 20)
    assert tokenizer(tokenizer.decode(ids))["input_ids"] == ids


def test_the_race_is_run(peer):
    result = race.run(quick=True)
    assert [len(table["rows"]) for table in result["tables"]] == [9, 9, 6]
    assert {row["side"] for row in result["tables"][0]["rows"]} == {race.OURS, race.DEFAULT, race.BEST}
    exact = [row for row in result["tables"][2]["rows"] if row["side"] == race.BEST]
    assert len(exact) == 3 and all(row["gradient norm"] <= race.EXACT for row in exact)
