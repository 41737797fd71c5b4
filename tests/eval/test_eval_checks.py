"""Quantified claims by hand: each, except, count, and terms over combinations, on a small table of constants."""

from __future__ import annotations

import numpy as np
import pytest

from eval.checks import Evaluator, Side, Unavailable
from eval.claims import second_underlined
from rlfamily.errors import UserError

# model x row x column; a, b are rows, x, y columns. Row b of model M at y has two draws.
TABLE = {("M", "a", "x"): [3.0], ("M", "a", "y"): [2.0], ("M", "b", "x"): [1.0], ("M", "b", "y"): [1.0, 4.0],
         ("N", "a", "x"): [5.0], ("N", "a", "y"): [0.0], ("N", "b", "x"): [2.0], ("N", "b", "y"): [-8.0]}
ALL = {"model": ["M", "N"], "column": ["x", "y"]}


def number(at):
    place = (at["model"], at["row"], at["column"])
    if place not in TABLE:
        raise Unavailable("not run", f"no {place}")
    return np.array(TABLE[place])


def evaluator(**read):
    return Evaluator("c", Side(number, lambda table: [], lambda table: table == "good"), {"table": "t", **read}, {})


def check(check, **read):
    return evaluator(**read).check(check).tolist()


@pytest.mark.parametrize(("each", "expected"), [
    ({"model": ["M", "N"], "column": ["x"]}, [True]),
    ({"model": ["M"], "column": ["x", "y"]}, [True, False]),  # the second draw of M y has b above a
    ({"model": "M", "column": "x"}, [True]),
])
def test_each_holds_at_every_combination(each, expected):
    assert check({"each": each, "check": {"greater": ["a", "b"]}}) == expected


def test_except_leaves_out_what_it_names():
    greater = {"each": ALL, "check": {"greater": ["a", 0.5]}}
    assert check(greater) == [False]  # N a y is 0
    assert check(greater | {"except": [{"model": "N", "column": "y"}]}) == [True]
    assert check(greater | {"except": [{"column": "y"}]}) == [True]
    assert check(greater | {"except": [{"model": "M"}]}) == [False]


def test_a_term_may_name_what_is_bound():
    rows = {"each": {"row": ["a", "b"]}, "check": {"greater": [{"row": "$row"}, 1.5]}}
    assert check(rows, model="M", column="x") == [False]
    assert check(rows, model="N", column="x") == [True]
    inside = {"each": {"column": ["x", "y"]}, "check": {"greater": [{"row": "a", "column": "$column"}, {"row": "b"}]}}
    assert check(inside, model="N") == [True]


def test_what_is_bound_beats_read_and_a_term_beats_both():
    bound = {"each": {"model": ["N"]}, "check": {"close": {"of": "a", "to": 5, "within": 0}}}
    assert check(bound, model="M", column="x") == [True]
    said = {"each": {"model": ["N"]}, "check": {"close": {"of": {"row": "a", "model": "M"}, "to": 3, "within": 0}}}
    assert check(said, model="N", column="x") == [True]


@pytest.mark.parametrize(("more_than", "expected"), [(1, [True, True]), (2, [True, True]), (3, [True, False]),
                                                     (4, [False, False])])
def test_count(more_than, expected):
    # a > b at M x, N x, N y always, at M y in the first draw only
    assert check({"count": {"each": ALL, "check": {"greater": ["a", "b"]}}, "more_than": more_than}) == expected
    term = {"greater": [{"count": {"each": ALL, "check": {"greater": ["a", "b"]}}}, more_than]}
    assert check(term) == [1.0 if count > more_than else 0.5 * (count == more_than) for count in (4, 3)]  # it can tie


@pytest.mark.parametrize(("term", "value"), [
    ({"mean": {"each": ALL, "of": "a"}}, [2.5]),
    ({"max": {"each": ALL, "of": "a"}}, [5.0]),
    ({"min": {"each": ALL, "except": [{"model": "N"}], "of": "a"}}, [2.0]),
    ({"sum": {"each": {"row": ["a", "b"]}, "of": {"row": "$row", "model": "M", "column": "y"}}}, [3.0, 6.0]),
    ({"sum": [1, {"row": "b", "model": "M", "column": "y"}]}, [2.0, 5.0]),
    ({"signed_geometric_mean": [2, 4, -1]}, [-2.0]),
    ({"product": [2, {"row": "b", "model": "M", "column": "y"}]}, [2.0, 8.0]),
])
def test_terms_over_many(term, value):
    assert evaluator().term(term).tolist() == pytest.approx(value)


@pytest.mark.parametrize(("said", "expected"), [
    ({"greater": ["a", "b"]}, [1, 0]),  # 2 against 1 and 4
    ({"greater": ["a", "a"]}, [0.5]),
    ({"not": {"greater": ["a", "b"]}}, [0, 1]),
    ({"not": {"greater": ["a", "a"]}}, [0.5]),
    ({"all": [{"greater": ["a", "b"]}, {"greater": ["a", 0]}]}, [1, 0]),
    ({"any": [{"greater": ["a", "b"]}, {"greater": ["a", 3]}]}, [1, 0]),
    ({"any": [{"greater": ["a", "b"]}, {"greater": ["b", "a"]}]}, [1, 1]),
    ({"greatest": [3, "a", 1]}, [1]), ({"greatest": ["a", 1, 3]}, [0]), ({"least": [1, "a", 3]}, [1]),
    ({"least": ["a", 3, 1]}, [0]), ({"close": {"of": "a", "to": 1.5, "within": 0.5}}, [1]),
    ({"close": {"of": 1, "to": "a", "within": 0.9}}, [0]), ({"integer": {"of": 2.75, "within": 0.25}}, [1]),
    ({"integer": {"of": 2.5, "within": 0.25}}, [0]), ({"member": ["a", 1, 2]}, [1]), ({"member": ["a", 1, 3]}, [0]),
    ({"same_sign": ["a", 7]}, [1]), ({"same_sign": ["a", -2]}, [0]),
    ({"greater": [{"ratio": ["a", 4]}, 0.25]}, [1]), ({"greater": [{"difference": ["a", 3]}, 0]}, [0]),
    ({"close": {"of": {"log": {"exp": "a"}}, "to": 2, "within": 1e-9}}, [1]),
])
def test_what_a_check_means(said, expected):
    assert check(said, model="M", column="y") == expected


@pytest.mark.parametrize("term", [{"ratio": ["a", 0]}, {"log": 0}, {"log": -1}])
def test_what_is_no_number_is_checkable_neither_way(term):
    for said in ({"greater": [term, 0]}, {"not": {"greater": [term, 0]}}, {"close": {"of": term, "to": 1, "within": 9}}):
        assert np.isnan(check(said, model="M", column="x")).all()
        assert evaluator(model="M", column="x").verdict(said).word == "not checkable"


def test_a_table_reports_what_one_of_its_metrics_is_named_like():
    side = Side(number, lambda table: ["Avg@3", "Avg@3 std"] if table == "good" else [], lambda table: True)
    for table, like, there in (("good", "std", 1), ("good", "Avg", 1), ("good", "Pass", 0), ("other", "std", 0)):
        assert Evaluator("c", side, {}, {}).check({"reports": {"table": table, "like": like}}).tolist() == [there]


def test_a_missing_number_decides_the_whole_claim():
    verdict = evaluator(model="M").verdict({"each": {"column": ["x", "z"]}, "check": {"greater": ["a", "b"]}})
    assert (verdict.word, verdict.share) == ("not run", None)


def test_a_term_of_all_coordinates_needs_nothing_around_it():
    place = {"table": "t", "model": "M", "row": "a", "column": "x", "metric": "m"}
    assert Evaluator("c", Side(number, lambda table: [], bool), {}, {}).term(place).tolist() == [3.0]


@pytest.mark.parametrize(("wrong", "message"), [
    ({"each": {"colum": ["x"]}, "check": {"greater": ["a", "b"]}}, "each takes coordinates, except and check"),
    ({"each": {"column": ["x"]}, "chek": {"greater": ["a", "b"]}}, "each takes coordinates, except and check"),
    ({"each": {"column": []}, "check": {"greater": ["a", "b"]}}, "each has no combination left"),
    ({"each": ALL, "except": [{"model": "m"}], "check": {"greater": ["a", "b"]}}, "except leaves nothing out"),
    ({"each": ALL, "check": {"greater": [{"row": "$rwo"}, 1]}}, "nothing binds $rwo"),
    ({"count": {"each": ALL, "check": {"greater": ["a", "b"]}}}, "no operation 'count'"),
    ({"second_underlind": {"table": "t"}}, "did you mean 'second_underlined'"),
])
def test_a_wrong_quantifier_is_one_line(wrong, message):
    with pytest.raises(UserError) as error:
        check(wrong)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_underlines():
    assert check({"second_underlined": {"table": "good"}}) == [True]
    rows = [{"model": "M", "task_or_benchmark": "x", "metric": "m", "value": value, "mark": mark}
            for value, mark in (("3.0", ""), ("2.5", "underline"), ("2.50", "underline"), ("1", ""))]
    assert second_underlined(rows)
    for position in range(4):
        swapped = [row | {"mark": "" if row["mark"] else "underline"} if i == position else row
                   for i, row in enumerate(rows)]
        assert not second_underlined(swapped)
