"""The checks of the theory stage that belong to inference-time methods (I1 to I10, Q1 to Q4, PR1, PR2, W1, B1, C1, A1).

They are laws on tables of probabilities (see `guided`): what IRO's paper says of them, and what it leaves out. Rows are
those of `checks`; `beta` is the paper's temperature, eta is 1/beta.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

from rlfamily.theory import guided
from rlfamily.theory.guided import Tree, law
from rlfamily.theory.tilting import divergence, tilted
from rlfamily.theory.world import build, drawn

Row = dict[str, Any]

BETAS = (0.5, 1.0, 2.0)
SCHEDULES = {"constant": (1.0, 1.0, 1.0), "growing": (1.0, 2.0, 2.5)}  # IRO H.1.4 and Table 2
THRESHOLDS = {"median": 0.5, "high": 0.9}  # of CARDS: quantiles of the rewards of base samples
RETRIES = (1, 20)  # 20 in CARDS's public code
WORLDS = 10  # over which searches are compared
ATOMS = 11  # of Q#'s distributional head
WORDS, STEPS, DRAWS = 4, 4, 2  # a tree for Proposition 1: N = U^H = 16 of 256 responses


def _ending(seed: int) -> tuple[Tree, Tensor, Tensor]:
    """15 responses of 1 to 3 tokens, of which one word is the end of sequence."""
    world, base, rewards_M = drawn(seed, 3, 3, True)
    return guided.tree(world), base, rewards_M


def _right(nodes: Tree, rewards_M: Tensor) -> Tensor:
    """A binary reward: the better half of the responses is right."""
    return (rewards_M > rewards_M.median()).to(rewards_M.dtype)


def _apart(p_M: Tensor, q_M: Tensor) -> float:
    """Total variation."""
    return 0.5 * float((p_M - q_M).abs().sum())


def guided_composition(seed: int) -> Iterator[Row]:
    """Largest |log pi_t - log of base times exp(sum V_i/beta_i)| of a token, over iterations (I1, Eq. 6 and 8)."""
    nodes, base, rewards_M = _ending(seed)
    for beta, (schedule, factors) in product(BETAS, SCHEDULES.items()):
        betas = [beta * factor for factor in factors]
        policies, values = guided.iterated(nodes, base, rewards_M, betas)
        total_X, error = torch.zeros_like(values[0]), 0.0
        for policy, value_X, b in zip(policies[1:], values, betas, strict=True):
            total_X = total_X + value_X / b
            at_once = guided.steered(nodes, base, total_X)
            error = max(error, float((at_once.log_softmax(1) - policy.log_softmax(1)).abs().max()))
        yield {"schedule": schedule, "beta": beta, "value": error}


def guided_improvement(seed: int) -> Iterator[Row]:
    """Mean reward after 0 to 3 iterations with exact values, beside the greatest there is (I2)."""
    nodes, base, rewards_M = _ending(seed)
    for beta, (schedule, factors) in product(BETAS, SCHEDULES.items()):
        policies, _ = guided.iterated(nodes, base, rewards_M, [beta * factor for factor in factors])
        for iterations, policy in enumerate(policies):
            yield {"iterations": iterations, "schedule": schedule, "beta": beta, "expected": None,
                   "value": float(law(nodes, policy) @ rewards_M)}
    for beta in BETAS:
        yield {"iterations": "all", "schedule": "none", "beta": beta, "expected": None, "value": float(rewards_M.max())}


def guided_one_step(seed: int) -> Iterator[Row]:
    """KL from the KL-regularised optimum: of the base, and of one step with the plain and the soft value (I3, Q1)."""
    nodes, base, rewards_M = _ending(seed)
    for beta in BETAS:
        best_M = tilted(nodes.world, base, rewards_M, beta)
        plain = guided.controlled(nodes, base, guided.plain_values(nodes, base, rewards_M), 1 / beta)
        soft = guided.q_sharp(nodes, base, rewards_M, 1 / beta)
        for of, policy in (("base", base), ("plain", plain), ("soft", soft)):
            yield {"of": of, "beta": beta, "value": divergence(law(nodes, policy), best_M),
                   "expected": 0.0 if of == "soft" else None}


def guided_heads(seed: int) -> Iterator[Row]:
    """KL from the KL-regularised optimum of Q#'s two heads: a logit of P(r=1), and a histogram of rewards (Q2)."""
    nodes, base, rewards_M = _ending(seed)
    right_M = _right(nodes, rewards_M)
    atoms_A = torch.linspace(-1, 1, ATOMS, dtype=torch.float64)
    near_M = (rewards_M[:, None] - atoms_A).abs().argmin(1)
    for beta in BETAS:
        z_X = guided.plain_values(nodes, base, right_M).logit()
        bernoulli = guided.steered(nodes, base, torch.where(
            z_X == math.inf, 1 / beta, (1 / beta + z_X).exp().log1p() - z_X.exp().log1p()))
        pmf_AX = torch.stack([guided.plain_values(nodes, base, (near_M == a).double()) for a in range(ATOMS)])
        histogram = guided.steered(nodes, base, (pmf_AX.log() + atoms_A[:, None] / beta).logsumexp(0))
        for head, policy, reward_M in (("bernoulli", bernoulli, right_M), ("distribution", histogram, atoms_A[near_M])):
            yield {"head": head, "beta": beta,
                   "value": divergence(law(nodes, policy), tilted(nodes.world, base, reward_M, beta))}


def guided_posterior(seed: int) -> Iterator[Row]:
    """Total variation between FUDGE's law and pi(y | y is right) (Q3)."""
    nodes, base, rewards_M = _ending(seed)
    right_M = _right(nodes, rewards_M)
    posterior_M = law(nodes, base) * right_M
    found_M = law(nodes, guided.fudge(nodes, base, right_M))
    yield {"beta": 1.0, "value": _apart(found_M, posterior_M / posterior_M.sum())}


def guided_offset(seed: int) -> Iterator[Row]:
    """KL from the KL-regularised optimum where tokens are offset by eta P(right), as controlled decoding does (Q4)."""
    nodes, base, rewards_M = _ending(seed)
    right_M = _right(nodes, rewards_M)
    for beta in BETAS:
        policy = guided.controlled(nodes, base, guided.plain_values(nodes, base, right_M), 1 / beta)
        yield {"beta": beta, "expected": None,
               "value": divergence(law(nodes, policy), tilted(nodes.world, base, right_M, beta))}


def guided_greedy(seed: int) -> Iterator[Row]:
    """Total variation between ARGS with weight 0, whatever prefixes are worth, and greedy decoding (A1)."""
    nodes, base, rewards_M = _ending(seed)
    odd_X = torch.cat([nodes.world.logits(seed + 1).detach()[:, 0], rewards_M])
    for weight in (0.0, 1.0):
        found_M = law(nodes, guided.args(nodes, base, odd_X, weight, nodes.world.vocab))
        yield {"weight": weight, "beta": 1.0, "value": _apart(found_M, law(nodes, guided.greedy(base))),
               "expected": 0.0 if weight == 0 else None}


def guided_implicit(seed: int) -> Iterator[Row]:
    """Largest |log of a node's tuned over its untuned probability - (V_soft - log Z)|, tuned is pi* (W1)."""
    nodes, base, rewards_M = _ending(seed)
    for beta in BETAS:
        tuned = guided.q_sharp(nodes, base, rewards_M, 1 / beta)
        soft_X = guided.soft_values(nodes, base, rewards_M, beta)
        error_X = guided.reach(nodes, tuned) - guided.reach(nodes, base) - (soft_X - soft_X[0])
        whole_M = guided.implicit(nodes.world, tuned, base) - (rewards_M / beta - soft_X[0])
        yield {"of": "prefix", "beta": beta, "value": float(error_X.abs().max())}
        yield {"of": "response", "beta": beta, "value": float(whole_M.abs().max())}


def guided_best_of_n(seed: int) -> Iterator[Row]:
    """Total variation between best-of-n's law and all tuples of draws; its KL beside log n - (n-1)/n (B1)."""
    nodes, base, rewards_M = _ending(seed)
    p_M = law(nodes, base)
    for n in (2, 4):
        best = guided.top(torch.cat([p_M.new_zeros(nodes.prefixes), rewards_M]), 1)
        drawn_M = guided.search(nodes, base, (1, n, nodes.world.mask_MT.shape[1]), best, best)
        yield {"of": "law", "n": n, "beta": 1.0, "value": _apart(guided.best_of_n(p_M, rewards_M, n), drawn_M)}
    for n in (4, 16):
        yield {"of": "divergence", "n": n, "beta": 1.0, "expected": math.log(n) - (n - 1) / n,
               "value": divergence(guided.best_of_n(p_M, rewards_M, n), p_M)}


def guided_cards(seed: int) -> Iterator[Row]:
    """Total variation of CARDS with one segment from the clipped tilt, and of that from the exponential one (C1)."""
    nodes, base, rewards_M = _ending(seed)
    p_M, order = law(nodes, base), rewards_M.argsort()
    for beta, (name, quantile) in product(BETAS, THRESHOLDS.items()):
        threshold = float(rewards_M[order][(p_M[order].cumsum(0) >= quantile).nonzero()[0, 0]])
        clipped_M = guided.clipped_tilt(p_M, rewards_M, threshold, beta)
        about = {"threshold": name, "beta": beta, "expected": None}
        for retries in RETRIES:
            found_M = guided.cards(p_M, rewards_M, threshold, beta, retries)
            yield about | {"of": f"{retries} retries", "value": _apart(found_M, clipped_M)}
        yield about | {"of": "exponential", "value": _apart(clipped_M, tilted(nodes.world, base, rewards_M, beta))}


def _searched(nodes: Tree, base: Tensor, score_X: Tensor, rewards_M: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Law of IRO's search with the reward's final choice."""
    worth_X = torch.cat([rewards_M.new_zeros(nodes.prefixes), rewards_M])
    return guided.search(nodes, base, shape, guided.top(score_X, shape[0]), guided.top(worth_X, 1))


def guided_ranking(seed: int) -> Iterator[Row]:
    """Total variation between searches whose betas differ: by a factor, or in their ratio (I9)."""
    nodes, base, rewards_M = _ending(seed)
    _, (one_X, two_X) = guided.iterated(nodes, base, rewards_M, [1.0, 1.0])
    plain_M = _searched(nodes, base, one_X, rewards_M, (2, 2, 1))
    both_M = _searched(nodes, base, one_X + two_X, rewards_M, (2, 2, 1))
    for beta in BETAS:
        alone_M = _searched(nodes, base, one_X / beta, rewards_M, (2, 2, 1))
        scaled_M = _searched(nodes, base, (one_X + two_X) / beta, rewards_M, (2, 2, 1))
        yield {"of": "one value", "beta": beta, "value": _apart(alone_M, plain_M)}
        yield {"of": "two values", "beta": beta, "value": _apart(scaled_M, both_M)}


def guided_resampling(seed: int) -> Iterator[Row]:
    """Total variation from Eq. 8 of choosing one of B candidates: drawn by exp(V/beta), or the best (I10)."""
    nodes, base, rewards_M = _ending(seed)
    value_X = guided.plain_values(nodes, base, rewards_M)
    for beta in BETAS:
        target_M = law(nodes, guided.steered(nodes, base, value_X / beta))
        for candidates in (1, 2, 4, 8, 16):
            for way, choice in (("drawn", guided.resampled(value_X / beta, 1)), ("best", guided.top(value_X, 1))):
                found_M = guided.search(nodes, base, (1, candidates, 1), choice, choice)
                yield {"way": way, "candidates": candidates, "beta": beta, "value": _apart(found_M, target_M),
                       "expected": None}


def guided_reductions(seed: int) -> Iterator[Row]:
    """Total variation: one beam with one successor from the base, chunks as long as responses from best-of-KB (I6)."""
    nodes, base, rewards_M = _ending(seed)
    value_X, length = guided.plain_values(nodes, base, rewards_M), nodes.world.mask_MT.shape[1]
    p_M = law(nodes, base)
    yield {"of": "base", "beta": 1.0, "value": _apart(_searched(nodes, base, value_X, rewards_M, (1, 1, 1)), p_M)}
    yield {"of": "best of 4", "beta": 1.0, "value": _apart(
        _searched(nodes, base, value_X, rewards_M, (2, 2, length)), guided.best_of_n(p_M, rewards_M, 4))}


def guided_search(seed: int) -> Iterator[Row]:
    """Mean reward of search less that of best-of-4 over worlds, K=B=2, L=1: a right value and its negative (I7)."""
    gains = [_gains(*_ending(seed + world)) for world in range(WORLDS)]
    for way, of in gains[0]:
        gain_W = torch.tensor([gain[way, of] for gain in gains])
        yield {"way": way, "of": of, "beta": 1.0, "expected": None, "value": float(gain_W.mean()),
               "se": float(gain_W.std() / WORLDS**0.5)}


def _gains(nodes: Tree, base: Tensor, rewards_M: Tensor) -> dict[tuple[str, str], float]:
    value_X, last = guided.plain_values(nodes, base, rewards_M), guided.top(guided.best_values(nodes, rewards_M), 1)
    four_M = guided.best_of_n(law(nodes, base), rewards_M, 4)
    return {(way, of): float((guided.search(nodes, base, (2, 2, 1), keep(score_X, 2), last) - four_M) @ rewards_M)
            for of, score_X in (("right", value_X), ("wrong", -value_X))
            for way, keep in (("top", guided.top), ("diverse", guided.diverse))}


def guided_success(seed: int) -> Iterator[Row]:
    """Probability of the best response at N = U^H, uniform base and exact V*; expected: Proposition 1's (PR1)."""
    world = build(WORDS, STEPS, False)
    nodes, base, rewards_M = guided.tree(world), torch.zeros(world.num_states, WORDS).double(), world.rewards(seed)
    best, n = int(rewards_M.argmax()), DRAWS**STEPS
    found_M = _searched(nodes, base, guided.best_values(nodes, rewards_M), rewards_M, (1, DRAWS, 1))
    drawn_M = guided.best_of_n(law(nodes, base), rewards_M, n)
    promised = n / len(rewards_M)
    for method, law_M, distinct in (("search", found_M, (DRAWS / WORDS) ** STEPS), ("best of n", drawn_M, promised)):
        about = {"method": method, "beta": 1.0, "expected": promised}
        yield about | {"candidates": "drawn", "value": float(law_M[best])}
        yield about | {"candidates": "distinct", "value": distinct}


def guided_costs(seed: int) -> Iterator[Row]:
    """Best-of-N over search at N = U^(H/L): tokens and queries as counted; expected: Proposition 1's (PR2)."""
    for horizon, length, functions in ((4, 1, 1), (8, 2, 1), (8, 2, 3)):
        shape = (1, DRAWS, length)
        n = DRAWS ** (horizon // length)
        tokens, queries = guided.best_of_n_cost(n, horizon)
        search_tokens, values, rewards = guided.search_cost(shape, horizon, functions)
        about = {"horizon": horizon, "length": length, "functions": functions, "beta": 1.0}
        promised = DRAWS ** (horizon / length - 1)
        yield about | {"of": "tokens", "value": tokens / search_tokens, "expected": promised}
        promised *= length / (horizon * functions)
        for of, asked in (("value queries", values), ("all queries", values + rewards)):
            yield about | {"of": of, "value": queries / asked, "expected": promised}


def guided_nodes(seed: int) -> Iterator[Row]:
    """Nodes of a tree of two actions and four steps, and those that search with V* scores on its way (TB5)."""
    world = build(2, 4, False)
    nodes, rewards_M = guided.tree(world), world.rewards(seed)
    value_X, node, scored = guided.best_values(nodes, rewards_M), 0, 0
    while node < nodes.prefixes:
        children_V = nodes.child_SV[node]
        node, scored = int(children_V[value_X[children_V].argmax()]), scored + len(children_V)
    reached = node - nodes.prefixes == int(rewards_M.argmax())
    yield {"method": "BoN", "of": "nodes", "value": nodes.child_SV.numel(), "expected": 30}
    yield {"method": "IRO", "of": "nodes", "value": scored, "expected": 8}
    yield {"method": "IRO", "of": "found", "value": float(reached), "expected": 1}
    yield {"method": "ratio", "of": "nodes", "value": nodes.child_SV.numel() / scored, "expected": None}
    tokens, _ = guided.best_of_n_cost(2**4, 4)
    yield {"method": "ratio", "of": "tokens", "value": tokens / guided.search_cost((1, 2, 1), 4, 1)[0], "expected": 8}


CHECKS: dict[str, Callable[[int], Iterator[Row]]] = {check.__name__: check for check in (
    guided_composition, guided_improvement, guided_one_step, guided_heads, guided_posterior, guided_offset,
    guided_greedy, guided_implicit, guided_best_of_n, guided_cards, guided_ranking, guided_resampling,
    guided_reductions, guided_search, guided_success, guided_costs, guided_nodes)}
