"""Rows of several requests that grow together, with what scores them; all that is drawn and asked is counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rlfamily.decoding import Cost, Guide, Pause
from rlfamily.rollout import Completion, Growth
from rlfamily.rollout.followers import Follower
from rlfamily.streams import growth_uniform

Watch = Callable[[Sequence[Completion], Sequence[float | None], Sequence[int]], None]
"""Sees rows, what the guide said of each, and whom each goes on from, before that happens."""


class GrownBeams:
    """`Beams` of `width` rows to a request. `follow` opens the guide's follower of all rows, empty, on first use.

    Rows that run have a row of the follower each: `followed` are those that it has. `passed` counts their tokens
    that it was given; `told` is what it said of each row.
    """

    def __init__(
        self, growth: Growth, width: int, streams: Sequence[int], follow: Callable[[], Follower], costs: Sequence[Cost],
        guide: Guide, models: int,
    ) -> None:
        self.growth, self.width, self.streams, self.follow = growth, width, streams, follow
        self.costs, self.guide, self.models = costs, guide, models
        self.follower: Follower | None = None
        rows = width * len(streams)
        self.followed, self.passed = list(range(rows)), [0] * rows
        self.told: list[float | None] = [None] * rows
        self.watch: Watch | None = None

    @property
    def running(self) -> list[bool]:
        """Which rows can grow."""
        flags = [False] * len(self.told)
        for row in self.growth.running:
            flags[row] = True
        return flags

    def completions(self) -> list[Completion]:
        """The rows as they are."""
        return self.growth.completions()

    def draw(self, most: int | None = None, rows: Sequence[int] | None = None, pause: Pause | None = None) -> None:
        """Draw up to `most` tokens for each running row, or for those of `rows` alone, while others wait."""
        before = self._lengths()
        self.growth.draw(most, rows, pause)
        for row, (old, new) in enumerate(zip(before, self._lengths(), strict=True)):
            self.costs[row // self.width].drew(new - old)

    def restart(self, rows: Sequence[int], number: int) -> None:
        """Let rows draw by the streams of attempt `number` from now on."""
        streams = [self.streams[row // self.width] + number * self.width + row % self.width for row in rows]
        self.growth.reseed(rows, streams)

    def scores(self) -> list[float]:
        """What the guide says of each row as it is. A row that did not change is not asked about again."""
        rows = self.completions()
        new = [rows[row].ids[self.passed[row]:] for row in self.followed]
        if self.follower is None or any(new):
            first, self.follower = self.follower is None, self.follower or self.follow()
            scores = self.follower.extend(new)
            asked: set[tuple[int, tuple[int, ...]]] = set()
            for row, ids, score in zip(self.followed, new, scores, strict=True):
                self.told[row], self.passed[row] = score, len(rows[row].ids)
                if ids or first:
                    asked.add((row // self.width, tuple(rows[row].ids)))
            for request, _ in asked:
                self.costs[request].asked(self.guide, self.models)
        return [0.0 if score is None else score for score in self.told]

    def select(self, index: Sequence[int]) -> None:
        """Make row n what row `index[n]` was, for all rows; each goes on drawing by its own stream."""
        if self.watch is not None:
            self.watch(self.completions(), self.told, index)
        self.growth.select(index)
        self.told, self.passed = [self.told[row] for row in index], [self.passed[row] for row in index]
        self._follow([index[row] for row in self.growth.running])

    def options(self, count: int) -> tuple[list[list[int]], list[list[float]]]:
        """The `count` likeliest next tokens of each running row under the policy itself, and their log-probs."""
        self.offered, logps = self.growth.options(count)
        return self.offered, logps

    def weigh(self, options: Sequence[Sequence[int]]) -> list[list[float]]:
        """What the guide says of each running row with each of these tokens behind it."""
        self.follower = self.follower or self.follow()
        for row, some in zip(self.growth.running, options, strict=True):
            self.costs[row // self.width].asked(self.guide, len(some) * self.models)
        self.weighed = self.follower.branch(options)
        return self.weighed

    def append(self, choice: Sequence[int]) -> None:
        """Each running row takes the token that it was weighed with at this place of its options."""
        running, places, first = self.growth.running, {}, 0
        for row, told, chosen in zip(running, self.weighed, choice, strict=True):
            places[row], self.told[row] = first + chosen, told[chosen]
            first += len(told)
            self.passed[row] += 1
            self.costs[row // self.width].drew(1)
        self.growth.append([some[chosen] for some, chosen in zip(self.offered, choice, strict=True)])
        self.followed = self.growth.running
        if self.followed and self.follower is not None:
            self.follower.select([places[row] for row in self.followed])

    def chances(self) -> list[float]:
        """A number between 0 and 1 of each running row's stream, for its next token."""
        return self.growth.uniforms()

    def _follow(self, parents: Sequence[int]) -> None:
        """Let the follower have the rows that run now, which were `parents`."""
        if self.follower is None:
            return
        places = {row: place for place, row in enumerate(self.followed)}
        self.followed = self.growth.running
        if self.followed:
            self.follower.select([places[row] for row in parents])

    def _lengths(self) -> list[int]:
        return [len(row.ids) for row in self.completions()]


def chance(stream: int, number: int) -> float:
    """A number between 0 and 1 for what is not a token: which segment is accepted, who becomes a parent."""
    return growth_uniform(stream, -1 - number)
