"""Laws of inference-time methods on an enumerable world: the probability with which each returns every response.

A node is a prefix or a whole response; X nodes are the S prefixes (0 is the empty one), then the M responses. Values,
rewards and scores of nodes are tables of X numbers. A token-by-token method is a policy; a method that draws whole
responses has a closed form; a search has its pools enumerated, so that its law is exact too.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement, product

import torch
from torch import Tensor

from rlfamily.theory.world import World

Pool = tuple[int, ...]  # nodes in order, the same one as often as it was drawn
Choice = Callable[[Pool], Iterator[tuple[Pool, float]]]  # the sets of nodes that may be kept, with their probabilities


@dataclass(frozen=True)
class Tree:
    """The nodes of a world, and the node that each token leads to from each prefix."""

    world: World
    child_SV: Tensor

    @property
    def prefixes(self) -> int:
        """S: nodes from here on are whole responses."""
        return self.world.num_states


def tree(world: World) -> Tree:
    """Lay out a world as a tree: a prefix always comes before those that it begins."""
    ends_M = torch.arange(len(world.mask_MT)) + world.num_states
    later_MT = torch.cat([world.state_MT[:, 1:], torch.zeros_like(ends_M[:, None])], 1)
    goes_on_MT = torch.cat([world.mask_MT[:, 1:], torch.zeros_like(world.mask_MT[:, :1])], 1) > 0
    next_MT = torch.where(goes_on_MT, later_MT, ends_M[:, None])
    real_MT = world.mask_MT > 0
    child_SV = torch.zeros(world.num_states, world.vocab, dtype=torch.long)
    child_SV[world.state_MT[real_MT], world.tokens_MT[real_MT]] = next_MT[real_MT]
    return Tree(world, child_SV)


def backed_up(nodes: Tree, rewards_M: Tensor, before: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Values of all nodes, (X,): a response's is its reward, a prefix's is `before`(prefix, its children's values)."""
    values_X = torch.cat([rewards_M.new_zeros(nodes.prefixes), rewards_M])
    for prefix in reversed(range(nodes.prefixes)):
        values_X[prefix] = before(prefix, values_X[nodes.child_SV[prefix]])
    return values_X


def plain_values(nodes: Tree, logits: Tensor, rewards_M: Tensor) -> Tensor:
    """V^pi: the mean reward of what follows a node."""
    p_SV = logits.softmax(1)
    return backed_up(nodes, rewards_M, lambda prefix, after_V: p_SV[prefix] @ after_V)


def soft_values(nodes: Tree, logits: Tensor, rewards_M: Tensor, beta: float) -> Tensor:
    """log E[exp(R/beta)] of what follows a node."""
    logp_SV = logits.log_softmax(1)
    return backed_up(nodes, rewards_M / beta, lambda prefix, after_V: (logp_SV[prefix] + after_V).logsumexp(0))


def best_values(nodes: Tree, rewards_M: Tensor) -> Tensor:
    """V*: the greatest reward that can follow a node."""
    return backed_up(nodes, rewards_M, lambda prefix, after_V: after_V.max())


def reach(nodes: Tree, logits: Tensor) -> Tensor:
    """log of the probability that a node is passed, (X,); a prefix without a token to go on with is never passed."""
    logp_SV = logits.log_softmax(1).nan_to_num(nan=-math.inf, neginf=-math.inf)
    reached_X = logits.new_zeros(nodes.prefixes + len(nodes.world.mask_MT))
    for prefix in range(nodes.prefixes):
        reached_X[nodes.child_SV[prefix]] = reached_X[prefix] + logp_SV[prefix]
    return reached_X


def law(nodes: Tree, logits: Tensor) -> Tensor:
    """Probability of every response, (M,), where tokens of a policy may be impossible."""
    return reach(nodes, logits)[nodes.prefixes :].exp()


# ---- policies: methods that weigh every next token


def steered(nodes: Tree, logits: Tensor, score_X: Tensor, top_k: int | None = None) -> Tensor:
    """The policy in proportion to pi(token) exp(score of the prefix with it), among the k likeliest tokens."""
    return _among_top(logits.log_softmax(1), top_k) + score_X[nodes.child_SV]


def _among_top(logits: Tensor, top_k: int | None) -> Tensor:
    if top_k is None or top_k >= logits.shape[1]:
        return logits
    least_S1 = logits.topk(top_k, 1).values[:, -1:]
    return logits.masked_fill(logits < least_S1, -math.inf)


def iterated(nodes: Tree, logits: Tensor, rewards_M: Tensor, betas: list[float]) -> tuple[list[Tensor], list[Tensor]]:
    """IRO with exact values (Eq. 6): the policies pi_0, pi_1, .. and the values V^pi_0, V^pi_1, .. that made them."""
    policies, values = [logits], []
    for beta in betas:
        values.append(plain_values(nodes, policies[-1], rewards_M))
        policies.append(steered(nodes, policies[-1], values[-1] / beta))
    return policies, values


def q_sharp(nodes: Tree, logits: Tensor, rewards_M: Tensor, eta: float, top_k: int | None = None) -> Tensor:
    """Q#'s policy: tokens weighed by log E[exp(eta R)] of what follows. A larger eta is further from pi."""
    return steered(nodes, logits, soft_values(nodes, logits, rewards_M, 1 / eta), top_k)


def fudge(nodes: Tree, logits: Tensor, correct_M: Tensor, top_k: int | None = None) -> Tensor:
    """FUDGE's policy: tokens weighed by the probability that what follows is right."""
    return steered(nodes, logits, plain_values(nodes, logits, correct_M).log(), top_k)


def controlled(nodes: Tree, logits: Tensor, values_X: Tensor, eta: float, top_k: int | None = None) -> Tensor:
    """Controlled decoding's policy: tokens weighed by exp(eta V)."""
    return steered(nodes, logits, eta * values_X, top_k)


def args(nodes: Tree, logits: Tensor, rewards_X: Tensor, weight: float, top_k: int) -> Tensor:
    """ARGS's policy, greedy: of the k likeliest tokens the best by logit and weighed reward of the prefix with it."""
    return greedy(_among_top(logits, top_k) + weight * rewards_X[nodes.child_SV])


def greedy(logits: Tensor) -> Tensor:
    """The policy that always takes the first of the likeliest tokens."""
    first = torch.nn.functional.one_hot(logits.argmax(1), logits.shape[1]).to(logits.dtype)
    return first.log()


# ---- methods that draw whole responses


def best_of_n(probability_M: Tensor, score_M: Tensor, n: int) -> Tensor:
    """Law of the best of n draws, the first drawn of equal ones: F(score)^n - F(score-)^n, shared as they are drawn."""
    below_M = (score_M[:, None] > score_M).to(probability_M.dtype) @ probability_M
    up_to_M = (score_M[:, None] >= score_M).to(probability_M.dtype) @ probability_M
    return probability_M * (up_to_M**n - below_M**n) / (up_to_M - below_M)


def implicit(world: World, tuned: Tensor, untuned: Tensor) -> Tensor:
    """The implicit reward of every response, (M,): what best-of-n chooses by in BoN-I."""
    return world.sequence_logp(tuned) - world.sequence_logp(untuned)


def clipped_tilt(probability_M: Tensor, rewards_M: Tensor, threshold: float, beta: float) -> Tensor:
    """What CARDS aims at where a segment is a whole response: pi min(1, exp((R - threshold)/beta))/Z."""
    kept_M = probability_M * acceptance(rewards_M, threshold, beta)
    return kept_M / kept_M.sum()


def acceptance(rewards_M: Tensor, threshold: float, beta: float) -> Tensor:
    """Probability with which CARDS accepts a candidate."""
    return ((rewards_M - threshold) / beta).clamp(max=0).exp()


def cards(probability_M: Tensor, rewards_M: Tensor, threshold: float, beta: float, retries: int) -> Tensor:
    """Law of CARDS where a segment is a whole response and all rewards differ.

    After `retries` rejections it draws once more and takes the best of all, accepted or not.
    """
    kept_M = probability_M * acceptance(rewards_M, threshold, beta)
    refused_M = probability_M - kept_M
    order = rewards_M.argsort()
    up_to_M = probability_M[order].cumsum(0) * refused_M[order].cumsum(0) ** retries
    last_M = torch.zeros_like(up_to_M)
    last_M[order] = up_to_M.diff(prepend=up_to_M.new_zeros(1))
    tries = sum(float(refused_M.sum()) ** tried for tried in range(retries))
    return kept_M * tries + last_M


# ---- searches: pools of sampled candidates, enumerated


def search(nodes: Tree, logits: Tensor, shape: tuple[int, int, int], keep: Choice, last: Choice) -> Tensor:
    """Law of guided generation (IRO Alg. 4; weak-to-strong search): (M,).

    `shape` is K beams, B successors of each, L tokens of a successor. Of every pool `keep` chooses K nodes to go on
    from; a finished one contributes itself B times. Of a pool of whole responses `last` chooses one.
    """
    width, children, length = shape
    after: dict[int, dict[int, float]] = {}
    law_M = torch.zeros(len(nodes.world.mask_MT), dtype=logits.dtype)
    parents: dict[Pool, float] = {(0,) * width: 1.0}
    while parents:
        following: dict[Pool, float] = defaultdict(float)
        for beams, chance in parents.items():
            for node in {*beams} - {*after}:
                after[node] = continuations(nodes, logits.softmax(1), node, length)
            for pool, drawn in _pools(beams, after, children):
                finished = pool[0] >= nodes.prefixes
                for chosen, share in (last if finished else keep)(pool):
                    if finished:
                        law_M[chosen[0] - nodes.prefixes] += chance * drawn * share
                    else:
                        following[chosen] += chance * drawn * share
        parents = following
    return law_M


def continuations(nodes: Tree, p_SV: Tensor, node: int, length: int) -> dict[int, float]:
    """Where at most `length` further tokens lead, with probabilities."""
    if node >= nodes.prefixes or not length:
        return {node: 1.0}
    found: dict[int, float] = defaultdict(float)
    for child, p in zip(nodes.child_SV[node].tolist(), p_SV[node].tolist(), strict=True):
        for end, q in continuations(nodes, p_SV, child, length - 1).items():
            found[end] += p * q
    return found


def _pools(beams: Pool, after: dict[int, dict[int, float]], children: int) -> Iterator[tuple[Pool, float]]:
    """Every pool that the beams may have, in order of nodes."""
    of_each = [list(_draws(after[node], children * times)) for node, times in Counter(beams).items()]
    for drawn in product(*of_each):
        yield tuple(sorted(node for some, _ in drawn for node in some)), math.prod(p for _, p in drawn)


def _draws(law: dict[int, float], size: int) -> Iterator[tuple[Pool, float]]:
    """Every multiset of `size` independent draws, as probable as all its orders together."""
    for some in combinations_with_replacement(sorted(law), size):
        times = Counter(some)
        orders = math.factorial(size) // math.prod(map(math.factorial, times.values()))
        yield some, orders * math.prod(law[node] ** n for node, n in times.items())


def top(score_X: Tensor, width: int) -> Choice:
    """Keep the `width` best; of equal ones the first."""
    score = score_X.tolist()

    def choose(pool: Pool) -> Iterator[tuple[Pool, float]]:
        yield tuple(sorted(sorted(pool, key=lambda node: -score[node])[:width])), 1.0

    return choose


def diverse(score_X: Tensor, width: int) -> Choice:
    """Keep the best of each kind first, then the best of what is left (IRO Alg. 5)."""
    score = score_X.tolist()

    def choose(pool: Pool) -> Iterator[tuple[Pool, float]]:
        again = {index for index in range(1, len(pool)) if pool[index] == pool[index - 1]}
        order = sorted(range(len(pool)), key=lambda index: (index in again, -score[pool[index]]))
        yield tuple(sorted(pool[index] for index in order[:width])), 1.0

    return choose


def resampled(score_X: Tensor, width: int) -> Choice:
    """Draw `width` without replacement, in proportion to exp(score): the stochastic variant."""
    weight = score_X.exp().tolist()

    def choose(pool: Pool, size: int = width) -> Iterator[tuple[Pool, float]]:
        if not size:
            yield (), 1.0
            return
        total = sum(weight[node] for node in pool)
        for node, times in Counter(pool).items():
            index = pool.index(node)
            for others, p in choose(pool[:index] + pool[index + 1 :], size - 1):
                yield tuple(sorted((node, *others))), p * times * weight[node] / total

    return choose


# ---- costs


def best_of_n_cost(n: int, horizon: int) -> tuple[int, int]:
    """Tokens drawn and rewards asked for."""
    return n * horizon, n


def search_cost(shape: tuple[int, int, int], horizon: int, functions: int) -> tuple[int, int, int]:
    """Tokens drawn, values and rewards asked for, by IRO Alg. 4 read literally: it never scores its finished pool."""
    width, children, length = shape
    tokens = values = done = 0
    while done < horizon:
        values += width * children * functions if done else 0
        step = min(length, horizon - done)
        tokens, done = tokens + width * children * step, done + step
    return tokens, values, width * children
