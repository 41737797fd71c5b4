"""Beam search over parts: exact laws against Alg. 4 written out, special cases, and how parents are chosen."""

from __future__ import annotations

import math
from itertools import permutations, product

import pytest
from tables import Tables, config_of, distance, law_of

from rlfamily.decoding.choosing import best, by_chance, diverse, inverse, most_frequent, ranked
from rlfamily.decoding.search import Shape, _children

EXACT = 1e-10


def shape(**changes):
    return {"beams": 2, "branches": 2, "chunk": 1, "pick": "top", "finished": "repeat", "final": "reward", **changes}


def parts(tables, prefix, chunk):
    """Continuations of at most `chunk` tokens with their probabilities; what is whole stays as it is."""
    found = {prefix: 1.0}
    for _ in range(chunk):
        longer = {}
        for y, p in found.items():
            for token, q in [(None, 1.0)] if tables.whole(y) else enumerate(tables.policy[y]):
                longer[y if token is None else (*y, token)] = p * q
        found = longer
    return found


def algorithm_4(tables, values, final, beams, branches, chunk, pick):
    """The law of the result by the definition: every way to draw every part, with `beams * branches` candidates."""
    def draws(parents):
        each = [parts(tables, parent, chunk) for parent in parents]
        for some in product(*each):
            yield some, math.prod(law[y] for law, y in zip(each, some, strict=True))

    def parents_of(pool):
        order = sorted(range(len(pool)), key=lambda place: (-values[pool[place]], place))
        if pick == "diverse":
            order = sorted(order, key=lambda place: pool.index(pool[place]) != place)
        return tuple(pool[place] for place in order[:beams] for _ in range(branches))

    found, waiting = {}, {((),) * (beams * branches): 1.0}
    while waiting:
        parents, p = waiting.popitem()
        for pool, q in draws(parents):
            whole = all(map(tables.whole, pool))
            into, key = (found, max(pool, key=final.__getitem__)) if whole else (waiting, parents_of(pool))
            into[key] = into.get(key, 0.0) + p * q
    return found


@pytest.mark.parametrize("pick", ["top", "diverse"])
@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("chunk", [1, 2])
def test_the_search_is_algorithm_4(pick, ends, chunk):
    tables = Tables(2, 3, ends, seed=20)
    guides = {"values": tables.values(), "rewards": tables.rewards}
    found = law_of(tables, config_of("iro", **shape(pick=pick, chunk=chunk)), guides)
    assert distance(found, algorithm_4(tables, guides["values"], tables.rewards, 2, 2, chunk, pick)) < EXACT


@pytest.mark.parametrize("pick", ["top", "diverse", "stochastic"])
@pytest.mark.parametrize("finished", ["repeat", "once"])
def test_one_part_for_a_response_is_best_of_n(pick, finished):  # I6
    tables = Tables(2, 3, seed=21)
    guides = {"values": tables.values(), "rewards": tables.rewards}
    found = law_of(tables, config_of("iro", **shape(pick=pick, finished=finished, chunk=3)), guides)
    assert distance(found, law_of(tables, config_of("best_of_n", samples=4), guides)) < EXACT


@pytest.mark.parametrize("pick", ["top", "diverse", "stochastic"])
@pytest.mark.parametrize("final", ["reward", "value"])
def test_one_beam_of_one_branch_is_the_policy(pick, final):  # I6
    tables = Tables(3, 3, seed=22)
    guides = {"values": tables.values(), "rewards": tables.rewards}
    found = law_of(tables, config_of("iro", **shape(beams=1, branches=1, pick=pick, final=final)), guides)
    assert distance(found, tables.base) < EXACT


def test_only_ratios_of_the_betas_matter():  # I9
    def weights(*betas):
        return config_of("iro", betas=list(betas)).weights

    first, second = weights(1.0, 2.0), weights(3.0, 6.0)
    assert first == [1.0, 0.5] and second == pytest.approx([one / 3 for one in first])
    tables = Tables(2, 3, seed=23)
    one, other = tables.values(), Tables(2, 3, seed=24).rewards
    laws = []
    for betas in ((1.0, 2.0), (4.0, 8.0), (1.0, 0.25)):  # powers of two: no rounding that would part ties
        told = {y: sum(weight * v for weight, v in zip(weights(*betas), (one[y], other[y]), strict=True)) for y in one}
        laws.append(law_of(tables, config_of("iro", **shape()), {"values": told, "rewards": tables.rewards}))
    assert laws[0] == laws[1] and distance(laws[0], laws[2]) > 1e-5
    single = [law_of(tables, config_of("iro", **shape()), {"values": {y: v / beta for y, v in one.items()},
                                                          "rewards": tables.rewards}) for beta in (1.0, 4.0)]
    assert single[0] == single[1]


def test_an_exact_value_beats_best_of_n_at_the_same_tokens():  # I7
    gains = []
    for seed in (30, 31):
        tables = Tables(2, 3, ends=False, seed=seed)
        guides = {"values": tables.values(), "rewards": tables.rewards}
        means = [math.fsum(p * tables.rewards[y] for y, p in law_of(tables, one, guides).items())
                 for one in (config_of("iro", **shape()), config_of("best_of_n", samples=4))]
        gains.append(means[0] - means[1])
    assert min(gains) > 0.05, gains


def test_parents_by_chance_come_closer_to_the_tilt_with_more_branches():  # I10
    """With one beam the parents are importance resampled; the best one is not the tilt, for any number of them."""
    tables = Tables(2, 2, ends=False, seed=31)
    value = {prefix: 1.5 * v for prefix, v in tables.values().items()}
    tilt = {(token,): p for token, p in enumerate(
        [p * math.exp(value[token,]) for token, p in enumerate(tables.policy[()])])}
    total = sum(tilt.values())
    tilt = {prefix: p / total for prefix, p in tilt.items()}

    def first_token(pick, branches):
        law = law_of(tables, config_of("iro", **shape(beams=1, branches=branches, pick=pick, temperature=1.0)),
                     {"values": value, "rewards": tables.rewards})
        return {(token,): sum(p for y, p in law.items() if y[0] == token) for token in range(2)}

    errors = [distance(first_token("stochastic", branches), tilt) for branches in (1, 2, 3, 4)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.7 * errors[0]
    best_ones = [distance(first_token("top", branches), tilt) for branches in (1, 2, 3, 4)]
    assert best_ones[-1] > 1.5 * errors[-1]


def test_diversity_comes_first():
    scores, contents = [3.0, 3.0, 2.0, 3.0, 1.0], ["a", "a", "b", "a", "c"]
    assert diverse(scores, contents) == [0, 2, 4, 1, 3]
    assert ranked(scores) == [0, 1, 3, 2, 4]
    assert diverse([1.0] * 3, ["x"] * 3) == [0, 1, 2], "too few that differ: filled up with the others"


def test_equal_scores_stay_in_order():
    assert best([1.0, 2.0, 2.0]) == 1 and ranked([0.0, 1.0, 0.0, 1.0]) == [1, 3, 0, 2]
    assert best([-math.inf, -math.inf]) == 0


def test_parents_by_chance_are_drawn_without_replacement():
    """Against the product of softmax over what is left, by the measure of chance numbers that lead there."""
    scores, temperature, fine = [0.0, 1.0, -0.5], 0.7, 240
    weights = [math.exp(score / temperature) for score in scores]
    found = {}
    for one, other in product(range(fine), repeat=2):
        chosen = tuple(by_chance(scores, temperature, [(one + 0.5) / fine, (other + 0.5) / fine]))
        found[chosen] = found.get(chosen, 0) + 1 / fine ** 2
    for first, second in permutations(range(3), 2):
        p = weights[first] / sum(weights) * weights[second] / (sum(weights) - weights[first])
        assert found[first, second] == pytest.approx(p, abs=3 / fine)
    assert sorted(by_chance(scores, temperature, [0.1] * 3)) == [0, 1, 2]
    assert len(by_chance(scores, temperature, [0.1] * 9)) == 3


def test_a_place_by_chance_has_a_weight():
    assert inverse([0.0, 1.0, 0.0], 0.0) == 1 and inverse([0.0, 1.0, 0.0], 1 - 2 ** -53) == 1
    assert inverse([0.1] * 10 + [0.0], math.nextafter(1.0, 0.0)) == 9


@pytest.mark.parametrize(("answers", "scores", "place"), [
    (["a", "b", "b"], None, 1), (["a", "b"], None, 0), ([None, None, "b"], None, 2), ([None, None], None, 0),
    (["b", "a", "a", "b"], None, 0), ([None, None], [1.0, 2.0], 1),
    (["b", "a", "a", "b"], [0.0, 1.0, 3.0, 2.0], 2),  # a tie: the answer with the highest score, by that response
    (["b", "a", "b"], [0.0, 9.0, 1.0], 2),  # the most frequent, whatever the others score
    (["", "", "a"], None, 0),  # an answer that is empty is an answer; which are none says the task
])
def test_votes(answers, scores, place):
    assert most_frequent(answers, scores) == place


@pytest.mark.parametrize(("finished", "children"), [("repeat", [0, 0, 0, 3, 3, 3]), ("once", [0, 3, 3, 3, 3, 3])])
def test_an_ended_parent_takes_all_of_its_places_or_one(finished, children):
    made = Shape(beams=2, branches=3, chunk=1, pick="top", temperature=1.0, finished=finished)
    assert _children(made, [0, 3], [False, True, True, True, True, True]) == children
    assert _children(made, [0, 3], [False, True, True, False, True, True]) == [0, 0, 0, 3, 3, 3], "none can go on"


def test_ended_once_leaves_its_places_to_the_others():
    tables = Tables(2, 3, seed=26)
    high = {prefix: float(prefix[-1:] == (0,)) for prefix in tables.prefixes}  # what has ended is always a parent
    guides = {"values": high, "rewards": tables.rewards}
    laws = [law_of(tables, config_of("iro", **shape(finished=finished, branches=2)), guides)
            for finished in ("repeat", "once")]
    means = [math.fsum(p * len(y) for y, p in law.items()) for law in laws]
    assert abs(sum(laws[1].values()) - 1) < EXACT and means[0] != means[1]


@pytest.mark.parametrize("final", ["reward", "vote", "value"])
def test_what_chooses_at_the_end(final):
    tables = Tables(2, 2, ends=False, seed=27)
    answers = {y: str(sum(y)) if sum(y) else None for y in tables.responses}
    guides = {"values": tables.values(), "rewards": tables.rewards}
    found = law_of(tables, config_of("iro", **shape(beams=1, branches=3, chunk=2, final=final)), guides, answers=answers)
    closed = {}
    for some in product(tables.responses, repeat=3):
        scores = [guides["values"][y] for y in some]
        place = {"reward": best([tables.rewards[y] for y in some]), "value": best(scores),
                 "vote": most_frequent([answers[y] for y in some], scores)}[final]
        closed[some[place]] = closed.get(some[place], 0.0) + math.prod(tables.base[y] for y in some)
    assert distance(found, closed) < EXACT
