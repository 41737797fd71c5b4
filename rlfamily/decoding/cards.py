"""CARDS (Li et al. 2024): segments that end where the policy is unsure of what comes next, accepted by their reward.

A segment is drawn until the entropy of the next token reaches `entropy`, and accepted with probability
min(1, exp((r(x, y) - threshold(t)) / beta)) at t tokens, with

    threshold(t) = r_0 + t (r* - r_0) / longest, at most r*        r_0 = (1 - alpha) r(x) + alpha r*

After `retries` rejections one more is drawn, and the best of all that were tried is taken without a test, as the public
code does. With a segment for the whole response and retries without end the law is, up to a constant, a clipped tilt:
pi(y | x) min(1, exp((r - r*) / beta)).
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from rlfamily.decoding import Asked, Bench, Choice, DecodingConfig, Engaged, Pause

VERSION = "2"
MODES = ("sample",)
ROWS = 3  # of a request: what is accepted, the segment that is tried, the best that was rejected


class Config(DecodingConfig):
    """`target` is r*, what a good response scores; segments have `shortest` to `longest_segment` tokens."""

    kind: Literal["cards"]
    alpha: float = Field(ge=0, le=1)
    beta: float = Field(gt=0)
    target: float
    entropy: float = Field(ge=0)
    shortest: int = Field(gt=0)
    longest_segment: int = Field(gt=0)
    retries: int = Field(ge=0)

    @property
    def rows(self) -> int:
        """What is accepted, tried and kept."""
        return ROWS

    @property
    def streams(self) -> int:
        """More than a response can try: each segment draws by its own."""
        return 1 << 20

    @property
    def engages(self) -> Engaged:
        """Segments end where the policy is unsure."""
        return "pauses"


def asks(config: Config) -> frozenset[Asked]:
    """The task's reward, of parts of responses."""
    return frozenset({"rewards"})


def decode(config: Config, bench: Bench) -> list[Choice]:
    """A response to each request."""
    beams = bench.grow(ROWS, "rewards")
    threshold = [_Threshold(config, empty, bench.room(request))
                 for request, empty in enumerate(beams.scores()[::ROWS])]
    rejected, number = [0] * bench.requests, 0
    while any(beams.running):
        trials = [row for row in range(1, ROWS * bench.requests, ROWS) if beams.running[row - 1]]
        beams.draw(config.longest_segment, trials, Pause(config.shortest, config.entropy))
        scores, rows, index = beams.scores(), beams.completions(), list(range(ROWS * bench.requests))
        for trial in trials:
            request, score = trial // ROWS, scores[trial]
            keep = trial if not rejected[request] or score > scores[trial + 1] else trial + 1
            if rejected[request] == config.retries:
                index[trial - 1:trial + 2], rejected[request] = [keep] * ROWS, 0
            elif bench.chance(request, number) < threshold[request].accepts(score, len(rows[trial].ids)):
                index[trial - 1:trial + 2], rejected[request] = [trial] * ROWS, 0
            else:
                index[trial - 1:trial + 2] = [trial - 1, trial - 1, keep]
                rejected[request] += 1
        beams.select(index)
        number += 1
        beams.restart(trials, number)
    return [Choice(one) for one in beams.completions()[::ROWS]]


class _Threshold:
    """What a part of a response has to score; `empty` is the reward of the prompt alone."""

    def __init__(self, config: Config, empty: float, longest: int) -> None:
        self.config, self.longest = config, longest
        self.first = (1 - config.alpha) * empty + config.alpha * config.target

    def accepts(self, score: float, tokens: int) -> float:
        """The probability with which a part of so many tokens is accepted."""
        wanted = min(self.config.target, self.first + tokens * (self.config.target - self.first) / self.longest)
        return math.exp(min(0.0, (score - wanted) / self.config.beta))
