"""The law of the response of every decoder whose law is known, to the last path: no sampling, no tolerance for chance.

The names in brackets are those of the list of laws that the decoders have to meet (docs and theory use the same).
"""

from __future__ import annotations

import math
from itertools import product

import pytest
from tables import Tables, config_of, distance, law_of, normal, token_law

EXACT = 1e-10
FAR = 0.02
SURE = 60.0  # the logit of a probability that is 1 within rounding

WORLDS = pytest.mark.parametrize("tables", [Tables(2, 3), Tables(3, 3, seed=1), Tables(2, 3, ends=False, seed=2)],
                                 ids=["two words", "three words", "no end"])


def kl(one, other):
    return math.fsum(p * math.log(p / other[y]) for y, p in one.items() if p > 0)


def soft(tables, weight):
    """log E[exp(weight r)] of every prefix."""
    return {prefix: math.log(value) for prefix, value in
            tables.values(lambda y: math.exp(weight * tables.rewards[y])).items()}


def logits(tables):
    """The logit of P(r = 1) at every prefix, as a classifier that knows all would tell it."""
    return {prefix: SURE if p > 1 - 1e-12 else -SURE if p < 1e-12 else math.log(p / (1 - p))
            for prefix, p in tables.values().items()}


def best_of(tables, base, scores, count):
    """F(r)^N - F(r-)^N, shared by what scores the same as it is drawn."""
    found = {}
    for y, p in base.items():
        below = math.fsum(q for z, q in base.items() if scores[z] < scores[y])
        equal = math.fsum(q for z, q in base.items() if scores[z] == scores[y])
        found[y] = ((below + equal) ** count - below ** count) * p / equal
    return found


@WORLDS
def test_plain_is_the_policy(tables):
    assert distance(law_of(tables, config_of("plain"), {}), tables.base) < EXACT


@WORLDS
@pytest.mark.parametrize("count", [1, 2, 3])
def test_best_of_n(tables, count):  # B1
    law = law_of(tables, config_of("best_of_n", samples=count), {"rewards": tables.rewards})
    assert distance(law, best_of(tables, tables.base, tables.rewards, count)) < EXACT
    assert kl(law, tables.base) <= math.log(count) - (count - 1) / count + EXACT


def test_best_of_n_takes_the_first_of_equal_ones():  # B1, ties
    tables = Tables(3, 3, seed=3, binary=True)
    assert len({tables.rewards[y] for y in tables.responses}) == 2
    law = law_of(tables, config_of("best_of_n", samples=3), {"rewards": tables.rewards})
    assert distance(law, best_of(tables, tables.base, tables.rewards, 3)) < EXACT


@WORLDS
def test_an_optimal_pair_ranks_as_the_reward_does(tables):  # W1
    beta = 0.7
    tuned = tables.tilted(lambda y: math.exp(tables.rewards[y] / beta))
    pair = {y: math.log(tuned[y]) - math.log(tables.base[y]) for y in tables.responses}
    constant = {round(pair[y] - tables.rewards[y] / beta, 9) for y in tables.responses}
    assert len(constant) == 1, "r / beta - log Z"
    found = law_of(tables, config_of("best_of_n_implicit", samples=2), {"pair": pair})
    assert distance(found, best_of(tables, tables.base, tables.rewards, 2)) < EXACT


@pytest.mark.parametrize("pick", ["top", "diverse"])
def test_weak_to_strong_searches_by_the_soft_value(pick):  # W1
    tables = Tables(2, 3, seed=4)
    value = soft(tables, 1.0)
    tuned = {prefix: normal(dict(enumerate(
        p * math.exp(value[(*prefix, token)]) for token, p in enumerate(tables.policy[prefix]))))
        for prefix in tables.prefixes if not tables.whole(prefix)}
    pair = {prefix: math.fsum(math.log(tuned[prefix[:t]][prefix[t]] / tables.policy[prefix[:t]][prefix[t]])
                              for t in range(len(prefix))) for prefix in tables.prefixes}
    assert all(abs(pair[prefix] - (value[prefix] - value[()])) < EXACT for prefix in tables.prefixes)
    shape = {"beams": 2, "branches": 2, "chunk": 1, "pick": pick}
    # rounded: what the two tables say differs in last digits, which would break ties apart
    found = law_of(tables, config_of("weak_to_strong", **shape), {"pair": {y: round(v, 9) for y, v in pair.items()}})
    wanted = law_of(tables, config_of("iro", final="value", **shape), {"values": {y: round(v, 9) for y, v in value.items()}})
    assert distance(found, wanted) < EXACT


@pytest.mark.parametrize("eta", [0.5, 2.0, 6.0])
@pytest.mark.parametrize("ends", [True, False])
def test_q_sharp_is_the_tilt_by_exp_eta_r_in_one_step(eta, ends):  # Q1, Q2
    tables = Tables(3, 3, ends, seed=5, binary=True)
    found = law_of(tables, config_of("q_sharp", eta=eta, top_k=3), {"values": logits(tables)})
    assert distance(found, tables.tilted(lambda y: math.exp(eta * tables.rewards[y]))) < EXACT
    # eta is one over the weight of KL: a larger one goes further away
    assert kl(found, tables.base) > kl(tables.tilted(lambda y: math.exp(0.9 * eta * tables.rewards[y])), tables.base)


@pytest.mark.parametrize("ends", [True, False])
def test_fudge_is_the_posterior_of_good_responses(ends):  # Q3
    tables = Tables(3, 3, ends, seed=6, binary=True)
    found = law_of(tables, config_of("fudge", top_k=3), {"values": logits(tables)})
    assert distance(found, tables.tilted(tables.rewards.__getitem__)) < EXACT


@WORLDS
def test_controlled_decoding_by_the_plain_value_is_another_law_than_the_optimum(tables):  # Q4, I3
    eta, value = 2.0, tables.values()
    config = config_of("controlled_decoding", level="token", eta=eta, top_k=3)
    found = law_of(tables, config, {"values": value})
    own = token_law(tables, lambda prefix: [p * math.exp(eta * value[(*prefix, token)])
                                            for token, p in enumerate(tables.policy[prefix])])
    best = tables.tilted(lambda y: math.exp(eta * tables.rewards[y]))
    assert distance(found, own) < EXACT
    assert distance(found, best) > FAR / 10
    softly = {prefix: told / eta for prefix, told in soft(tables, eta).items()}
    assert distance(law_of(tables, config, {"values": softly}), best) < EXACT
    still = config_of("controlled_decoding", level="token", eta=0.0, top_k=3)
    assert distance(law_of(tables, still, {"values": value}), tables.base) < EXACT


def test_blocks_of_controlled_decoding_are_a_search_with_one_beam():
    tables = Tables(2, 4, seed=7)
    value = tables.values()
    found = law_of(tables, config_of("controlled_decoding", level="block", branches=3, chunk=2), {"values": value})
    wanted = law_of(tables, config_of("iro", beams=1, branches=3, chunk=2, pick="top", final="value"), {"values": value})
    assert distance(found, wanted) < EXACT

    def step(prefix, tokens):  # a part of at most two tokens
        parts = [y for y in tables.prefixes if y[:len(prefix)] == prefix and (
            len(y) == len(prefix) + tokens or (tables.whole(y) and len(y) <= len(prefix) + tokens))]
        mass = {y: math.prod(tables.policy[y[:t]][y[t]] for t in range(len(prefix), len(y))) for y in parts}
        return best_of(tables, mass, value, 3)

    closed = {}
    for part, p in step((), 2).items():
        for y, q in ({part: 1.0} if tables.whole(part) else step(part, 2)).items():
            closed[y] = closed.get(y, 0.0) + p * q
    assert distance(found, closed) < EXACT


@WORLDS
def test_args(tables):  # A1
    greedy = law_of(tables, config_of("args", weight=0.0, top_k=3), {"rewards": tables.rewards}, greedy=True)
    likeliest = token_law(tables, lambda prefix: [float(p == max(tables.policy[prefix])) for p in tables.policy[prefix]])
    assert distance(greedy, likeliest) < EXACT
    drawn = law_of(tables, config_of("args", weight=1.5, top_k=3, drawn=True, temperature=0.6), {"rewards": tables.rewards})
    closed = token_law(tables, lambda prefix: [(p * math.exp(1.5 * tables.rewards[(*prefix, token)])) ** (1 / 0.6)
                                               for token, p in enumerate(tables.policy[prefix])])
    assert distance(drawn, closed) < EXACT
    highest = law_of(tables, config_of("args", weight=1.5, top_k=3), {"rewards": tables.rewards})  # nothing is drawn
    assert sorted(highest.values()) == [pytest.approx(1.0)]


@pytest.mark.parametrize("top_p", [1.0, 0.8, 0.3])
def test_drawn_tokens_are_tempered_and_cut_behind_the_guide(top_p):
    tables, temperature = Tables(3, 3, seed=8), 0.7
    value = tables.values()

    def cut(prefix):
        weights = [(p * math.exp(value[(*prefix, token)])) ** (1 / temperature)
                   for token, p in enumerate(tables.policy[prefix])]
        share = [weight / math.fsum(weights) for weight in weights]
        return [p if math.fsum(q for q in share if q > p) < top_p else 0.0 for p in share]

    found = law_of(tables, config_of("controlled_decoding", level="token", eta=1.0, top_k=3), {"values": value},
                   temperature=temperature, top_p=top_p)
    assert distance(found, token_law(tables, cut)) < EXACT


def test_only_the_likeliest_tokens_are_looked_at():
    tables = Tables(3, 3, seed=9)
    value = {prefix: 9.0 * prefix.count(min(range(3), key=tables.policy[()].__getitem__)) for prefix in tables.prefixes}
    law = law_of(tables, config_of("controlled_decoding", level="token", eta=1.0, top_k=2), {"values": value})
    kept = token_law(tables, lambda prefix: [
        0.0 if p == min(tables.policy[prefix]) else p * math.exp(value[(*prefix, token)])
        for token, p in enumerate(tables.policy[prefix])])
    assert distance(law, kept) < EXACT


def accepted(tables, config, prefix, y):
    """The probability with which a segment that makes `prefix` to y is accepted."""
    first = (1 - config.alpha) * tables.rewards[()] + config.alpha * config.target
    wanted = min(config.target, first + len(y) * (config.target - first) / tables.length)
    return min(1.0, math.exp((tables.rewards[y] - wanted) / config.beta))


def segment(tables, config, prefix, base):
    """The law of one segment out of `base`: tries that are accepted, or the best of all with one that nobody tests."""
    accept = {y: accepted(tables, config, prefix, y) for y in base}
    rejected = {y: p * (1 - accept[y]) for y, p in base.items()}
    total, found = math.fsum(rejected.values()), {}
    for y, p in base.items():
        below, equal = (math.fsum(q for z, q in rejected.items() if relation(tables.rewards[z], tables.rewards[y]))
                        for relation in (float.__lt__, float.__le__))
        drawn_below, drawn = (math.fsum(q for z, q in base.items() if relation(tables.rewards[z], tables.rewards[y]))
                              for relation in (float.__lt__, float.__le__))
        tried = math.fsum(total ** turn for turn in range(config.retries))
        found[y] = tried * p * accept[y] + equal ** config.retries * drawn - below ** config.retries * drawn_below
    return found


@pytest.mark.parametrize("retries", [0, 1, 2])
@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_cards_with_one_segment_is_a_clipped_tilt_as_retries_grow(retries, alpha):  # C1
    tables = Tables(2, 3, seed=10)
    config = config_of("cards", alpha=alpha, beta=0.7, target=0.0, entropy=99.0, longest_segment=99, retries=retries)
    found = law_of(tables, config, {"rewards": tables.rewards})
    assert distance(found, segment(tables, config, (), tables.base)) < EXACT
    endless = segment(tables, config.model_copy(update={"retries": 400}), (), tables.base)
    assert distance(endless, tables.tilted(lambda y: accepted(tables, config, (), y))) < 1e-9
    assert distance(endless, tables.tilted(lambda y: math.exp(tables.rewards[y] / config.beta))) > FAR


@pytest.mark.parametrize("retries", [0, 1])
def test_cards_segment_by_segment(retries):
    """Entropy 0 ends every segment after `shortest` tokens."""
    tables = Tables(2, 3, seed=11)
    config = config_of("cards", alpha=0.5, beta=0.7, target=0.8, entropy=0.0, shortest=1, retries=retries)
    found = law_of(tables, config, {"rewards": tables.rewards})

    def next_token(prefix):
        base = {(*prefix, token): p for token, p in enumerate(tables.policy[prefix])}
        return list(segment(tables, config, prefix, base).values())

    assert distance(found, token_law(tables, next_token)) < EXACT


def test_cards_ends_segments_where_the_policy_is_unsure():
    tables = Tables(2, 3, ends=False, seed=12)
    entropy = {prefix: -math.fsum(p * math.log(p) for p in tables.policy[prefix]) for prefix in tables.prefixes}
    middle = sorted(entropy[prefix] for prefix in tables.prefixes if len(prefix) == 1)
    config = config_of("cards", alpha=0.5, beta=0.7, target=0.8, entropy=sum(middle) / 2, shortest=1, retries=1)
    found = law_of(tables, config, {"rewards": tables.rewards})

    def parts(prefix):
        """Segments that begin behind `prefix`, with their probabilities."""
        base, open_ones = {}, {prefix: 1.0}
        while open_ones:
            open_ones = {(*y, token): q * p for y, q in open_ones.items() for token, p in enumerate(tables.policy[y])}
            done = [y for y in open_ones if tables.whole(y) or entropy[y] >= config.entropy]
            base |= {y: open_ones.pop(y) for y in done}
        return base

    closed, waiting = {}, {(): 1.0}
    while waiting:
        prefix, q = waiting.popitem()
        for y, p in segment(tables, config, prefix, parts(prefix)).items():
            into = closed if tables.whole(y) else waiting
            into[y] = into.get(y, 0.0) + q * p
    assert len({len(y) for y in parts(())}) > 1, "segments of different lengths"
    assert distance(found, closed) < EXACT


def test_majority_vote():
    tables = Tables(2, 3, seed=13)
    answers = {y: None if sum(y) == 0 else str(sum(y) % 2) for y in tables.responses}
    found = law_of(tables, config_of("majority_vote", samples=3), {}, answers=answers)
    closed = {}
    for some in product(tables.responses, repeat=3):
        said = [answers[y] for y in some if answers[y] is not None]
        order = sorted(set(said), key=lambda answer: (-said.count(answer), said.index(answer)))
        chosen = next((y for y in some if answers[y] == order[0]), None) if order else some[0]
        closed[chosen] = closed.get(chosen, 0.0) + math.prod(tables.base[y] for y in some)
    assert distance(found, closed) < EXACT


@pytest.mark.parametrize(("kind", "settings"), [
    ("q_sharp", {"eta": 2.0, "top_k": 2}), ("best_of_n", {"samples": 2}),
    ("iro", {"beams": 1, "branches": 2, "chunk": 1, "pick": "stochastic"}),
    ("cards", {"alpha": 0.5, "target": 0.5, "entropy": 0.0, "shortest": 1, "retries": 1})])
def test_requests_have_nothing_to_do_with_each_other(kind, settings):
    tables = Tables(2, 2, seed=14, binary=True)
    guides, config = {"values": tables.values(), "rewards": tables.rewards}, config_of(kind, **settings)
    alone, both = law_of(tables, config, guides), law_of(tables, config, guides, requests=2)
    assert distance(both, {(one, other): p * q for one, p in alone.items() for other, q in alone.items()}) < EXACT
