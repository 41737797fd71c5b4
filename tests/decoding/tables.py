"""Decoders on a world that can be written down: tables behind `Bench` and `Beams`, and chance that takes every path.

A random number is decided only as far as a decoder asks: whether it lies below a bound. Each answer is a branch, and
all branches are gone through, depth first, so that laws come out as sums and not as frequencies. The same number (a
stream's at one place) asked for again is the same number: a decoder that draws twice by one stream is found out.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import dataclass, field
from functools import cache, cached_property

from rlfamily import decoding
from rlfamily.decoding.choosing import inverse
from rlfamily.rollout import Completion

END = 0
CERTAIN = 1e-12  # what is left of a sum of shares by rounding is no branch


class Paths:
    """Every path of what is left to chance: `law` runs once a path and adds up the probabilities of results."""

    def law(self, run):
        self.script, found, left = [], Counter(), True
        while left:
            self.at, self.weight = 0, 1.0
            result = run()
            found[result] += self.weight
            while self.script and self.script[-1][1] is None:
                self.script.pop()
            left = bool(self.script)
            if left:
                self.script[-1] = (False, None)
        return dict(found)

    def below(self, share):
        """Whether what happens with probability `share` happens: first on one path, then on the other."""
        if self.at == len(self.script):
            self.script.append((True, share))
        happens = self.script[self.at][0]
        self.at += 1
        self.weight *= share if happens else 1 - share
        return happens


class Uniform:
    """A number between 0 and 1 of which only its place among the bounds asked about is known."""

    def __init__(self, paths):
        self.paths, self.low, self.high = paths, 0.0, 1.0

    def __lt__(self, bound):
        share = (bound - self.low) / (self.high - self.low)
        if share <= CERTAIN or share >= 1 - CERTAIN:
            return share > 0.5
        below = self.paths.below(share)
        self.low, self.high = (self.low, bound) if below else (bound, self.high)
        return below

    def __mul__(self, factor):
        return Scaled(self, factor)


@dataclass
class Scaled:
    uniform: Uniform
    factor: float

    def __lt__(self, bound):
        return self.uniform < bound / self.factor


@dataclass(frozen=True)
class Tables:
    """All responses of at most `length` tokens out of `vocab`, and what a random policy and guides say of prefixes.

    With `ends` token 0 ends a response. `rewards` are of prefixes, too, as reward models tell them; `reward` of whole
    ones is one of them.
    """

    vocab: int
    length: int
    ends: bool = True
    seed: int = 0
    binary: bool = False

    @cached_property
    def prefixes(self):
        found = [()]
        for prefix in found:
            if not self.whole(prefix):
                found += [(*prefix, token) for token in range(self.vocab)]
        return found

    def whole(self, prefix):
        return len(prefix) == self.length or (self.ends and prefix[-1:] == (END,))

    @cached_property
    def responses(self):
        return [prefix for prefix in self.prefixes if self.whole(prefix)]

    @cached_property
    def policy(self):
        chance, table = random.Random(self.seed), {}
        for prefix in self.prefixes:
            weights = [math.exp(chance.gauss(0, 1)) for _ in range(self.vocab)]
            table[prefix] = [weight / math.fsum(weights) for weight in weights]
        return table

    @cached_property
    def rewards(self):
        chance = random.Random(1000 + self.seed)
        return {prefix: float(chance.random() < 0.5) if self.binary else chance.gauss(0, 1) for prefix in self.prefixes}

    @cached_property
    def base(self):
        """pi(y) of every response."""
        return {y: math.prod(self.policy[y[:t]][y[t]] for t in range(len(y))) for y in self.responses}

    def below(self, prefix):
        return [y for y in self.responses if y[:len(prefix)] == prefix]

    def expected(self, prefix, of):
        """E[of(y) | prefix] under the policy."""
        mass = math.fsum(self.base[y] for y in self.below(prefix))
        return math.fsum(self.base[y] * of(y) for y in self.below(prefix)) / mass

    def values(self, of=None):
        """A table of V: the expected reward of every prefix, or of something else."""
        return {prefix: self.expected(prefix, of or self.rewards.__getitem__) for prefix in self.prefixes}

    def tilted(self, weight):
        """The law pi(y) weight(y) / Z."""
        return normal({y: p * weight(y) for y, p in self.base.items()})


def normal(weights):
    total = math.fsum(weights.values())
    return {y: weight / total for y, weight in weights.items()}


def token_law(tables, next_token):
    """The law of responses whose next token after each prefix has the weights `next_token(prefix)`."""
    found = {}
    for y in tables.responses:
        found[y] = 1.0
        for t in range(len(y)):
            weights = next_token(y[:t])
            found[y] *= weights[y[t]] / math.fsum(weights)
    return found


@dataclass
class TableBench:
    """`decoding.Bench` over tables. `guides` are tables of what each says of prefixes; `asked` counts questions."""

    tables: Tables
    guides: dict
    paths: Paths = field(default_factory=Paths)
    requests: int = 1
    greedy: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    answers: dict = field(default_factory=dict)

    def __post_init__(self):
        self.numbers, self.asked = {}, Counter()

    def uniform(self, *name):
        return self.numbers.setdefault(name, Uniform(self.paths))

    def room(self, request):
        return self.tables.length

    def completion(self, prefix):
        return Completion(list(prefix), [], not (self.tables.ends and prefix[-1:] == (END,)))

    def token(self, prefix, *name):
        return inverse(self.tables.policy[prefix], self.uniform(*name, len(prefix)))

    def draw(self, count):
        found = []
        for request in range(self.requests):
            rows = [() for _ in range(count)]
            for number in range(count):
                while not self.tables.whole(rows[number]):
                    rows[number] += (self.token(rows[number], "sample", request, number),)
            found.append([self.completion(row) for row in rows])
        return found

    def grow(self, width, guide):
        return TableBeams(self, width, self.guides[guide], guide)

    def rate(self, guide, answers):
        for request, some in enumerate(answers):
            self.asked[guide, request] += len({tuple(one.ids) for one in some})
        return [[self.guides[guide][tuple(one.ids)] for one in some] for some in answers]

    def verdicts(self, answers):
        return [[self.answers[tuple(one.ids)] for one in some] for some in answers]

    def chance(self, request, number):
        return self.uniform("chance", request, number)


class TableBeams:
    """`decoding.Beams` over tables: row n draws by its own stream, and by another one after `restart`."""

    def __init__(self, bench, width, told, guide):
        self.bench, self.width, self.told, self.guide = bench, width, told, guide
        self.rows, self.attempt = [()] * (width * bench.requests), [0] * (width * bench.requests)

    @property
    def running(self):
        return [not self.bench.tables.whole(row) for row in self.rows]

    def draw(self, most=None, rows=None, pause=None):
        for place, row in enumerate(self.rows):
            start = len(row)
            if rows is not None and place not in rows:
                continue
            while not self.bench.tables.whole(row) and (most is None or len(row) - start < most):
                if pause is not None and len(row) - start >= pause.least and self.entropy(row) >= pause.entropy:
                    break
                row += (self.bench.token(row, "row", place, self.attempt[place]),)
            self.rows[place] = row

    def entropy(self, prefix):
        return -sum(p * math.log(p) for p in self.bench.tables.policy[prefix])

    def select(self, index):
        assert len(index) == len(self.rows)
        assert all(one // self.width == place // self.width for place, one in enumerate(index)), "requests mixed"
        self.rows = [self.rows[place] for place in index]

    def restart(self, rows, number):
        for row in rows:
            self.attempt[row] = number

    def scores(self):
        return [self.told[row] for row in self.rows]

    def options(self, count):
        self.offered = []
        for row, runs in zip(self.rows, self.running, strict=True):
            if runs:
                law = self.bench.tables.policy[row]
                self.offered.append(sorted(range(len(law)), key=lambda token, law=law: -law[token])[:count])
        rows = [row for row, runs in zip(self.rows, self.running, strict=True) if runs]
        return self.offered, [[math.log(self.bench.tables.policy[row][token]) for token in some]
                              for row, some in zip(rows, self.offered, strict=True)]

    def weigh(self, options):
        rows = [row for row, runs in zip(self.rows, self.running, strict=True) if runs]
        return [[self.told[(*row, token)] for token in some] for row, some in zip(rows, options, strict=True)]

    def append(self, choice):
        places = [place for place, runs in enumerate(self.running) if runs]
        for place, some, chosen in zip(places, self.offered, choice, strict=True):
            self.rows[place] += (some[chosen],)

    def chances(self):
        return [self.bench.uniform("token", place, len(row))
                for place, (row, runs) in enumerate(zip(self.rows, self.running, strict=True)) if runs]

    def completions(self):
        return [self.bench.completion(row) for row in self.rows]


@cache
def _conf(kind):
    from rlfamily.config import build

    return build([f"decoding={kind}"]).decoding


def config_of(kind, **settings):
    """A decoder's config: that of conf/decoding with changes."""
    return decoding.get(kind).Config.model_validate({**_conf(kind).model_dump(), **settings})


def law_of(tables, config, guides, requests=1, **bench):
    """The exact law of the response, or of the responses to several requests together."""
    paths = Paths()

    def once():
        made = TableBench(tables, guides, paths, requests, **bench)
        found = [tuple(one.completion.ids) for one in decoding.get(config.kind).decode(config, made)]
        return found[0] if requests == 1 else tuple(found)

    return paths.law(once)


def distance(one, other):
    """Total variation."""
    return sum(abs(one.get(y, 0.0) - other.get(y, 0.0)) for y in {*one, *other}) / 2
