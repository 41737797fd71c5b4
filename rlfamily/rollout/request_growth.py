"""Rows that grow by requests, each a prompt with what was said so far: for engines that keep prefixes themselves.

vLLM finds the keys and values of a prefix in its cache, so that a fork costs nothing and little is passed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rlfamily.decoding import Pause
from rlfamily.errors import UserError
from rlfamily.rollout import Completion, Engine, SamplingParams, check_room
from rlfamily.streams import growth_seed, growth_uniform

Likeliest = Callable[[Sequence[Sequence[int]], SamplingParams, int], tuple[list[list[int]], list[list[float]]]]
"""(rows, params, count) to the likeliest next tokens of each row under the model itself, and their log-probs."""


@dataclass(frozen=True)
class _Row:
    prompt: Sequence[int]
    said: Completion

    @property
    def ids(self) -> list[int]:
        return [*self.prompt, *self.said.ids]


class RequestGrowth:
    """`Growth` over an engine's `generate`; `likeliest` is what it can say of next tokens, where it can."""

    def __init__(
        self, engine: Engine, ends: Sequence[int], prompts: Sequence[Sequence[int]], params: SamplingParams,
        streams: Sequence[int], likeliest: Likeliest | None,
    ) -> None:
        check_room(prompts, params)
        self.engine, self.params, self.likeliest = engine, params, likeliest
        self.ends = {*ends, *params.stop_ids}
        self.rows = [_Row(prompt, Completion([], [], True)) for prompt in prompts]
        self.streams = list(streams)

    @property
    def running(self) -> list[int]:
        """Rows that can grow."""
        return [place for place, row in enumerate(self.rows)
                if row.said.truncated and len(row.said.ids) < self.params.room(row.prompt)]

    def draw(self, most: int | None = None, rows: Sequence[int] | None = None, pause: Pause | None = None) -> None:
        """Draw up to `most` tokens for each running row, or for those of `rows` alone. Raises UserError for a pause."""
        if pause is not None:
            raise UserError("decoding: rollout.engine=vllm does not say how uncertain a policy is of its next token, "
                            "which segments end by: use rollout.engine=torch")
        places = [place for place in self.running if rows is None or place in rows]
        parts: dict[SamplingParams, list[int]] = {}
        for place in places:
            parts.setdefault(self._left(self.rows[place], most), []).append(place)
        for params, members in parts.items():
            drawn = self.engine.generate(
                [self.rows[place].ids for place in members], params,
                [growth_seed(self.streams[place], len(self.rows[place].said.ids)) for place in members])
            for place, new in zip(members, drawn, strict=True):
                self._extend(place, new.ids, new.logps)

    def append(self, tokens: Sequence[int]) -> None:
        """Append a given token to each running row."""
        for place, token in zip(self.running, tokens, strict=True):
            self._extend(place, [token], [])

    def options(self, count: int) -> tuple[list[list[int]], list[list[float]]]:
        """The likeliest next tokens of each running row, and their log-probs. Raises UserError where none are told."""
        if self.likeliest is None:
            raise UserError("decoding: a server of vLLM is asked for tokens, not for what may come next: use "
                            "hardware.vllm.mode=colocated or rollout.engine=torch")
        rows = [self.rows[place] for place in self.running]
        early = [len(row.said.ids) < self.params.min_new_tokens for row in rows]
        tokens, logps = self.likeliest([row.ids for row in rows], self.params, count + any(early) * len(self.ends))
        kept = [[place for place, token in enumerate(some) if not (too_early and token in self.ends)][:count]
                for some, too_early in zip(tokens, early, strict=True)]
        return ([[some[place] for place in places] for some, places in zip(tokens, kept, strict=True)],
                [[some[place] for place in places] for some, places in zip(logps, kept, strict=True)])

    def uniforms(self) -> list[float]:
        """A number between 0 and 1 of each running row's stream, for its next token."""
        return [growth_uniform(self.streams[place], len(self.rows[place].said.ids)) for place in self.running]

    def select(self, index: Sequence[int]) -> None:
        """Make row n what row `index[n]` was."""
        self.rows = [self.rows[place] for place in index]

    def reseed(self, rows: Sequence[int], streams: Sequence[int]) -> None:
        """Let rows draw by these streams from now on."""
        for place, stream in zip(rows, streams, strict=True):
            self.streams[place] = stream

    def completions(self) -> list[Completion]:
        """The rows as they are."""
        return [row.said for row in self.rows]

    def _extend(self, place: int, ids: Sequence[int], logps: Sequence[float]) -> None:
        row = self.rows[place]
        said = Completion([*row.said.ids, *ids], [*row.said.logps, *logps], ids[-1] not in self.ends)
        self.rows[place] = replace(row, said=said)

    def _left(self, row: _Row, most: int | None) -> SamplingParams:
        """What the row may still say, at most `most` tokens of it now."""
        said, room = len(row.said.ids), self.params.room(row.prompt)
        new = room - said if most is None else min(most, room - said)
        return replace(self.params, max_new_tokens=new,
                       min_new_tokens=min(new, max(0, self.params.min_new_tokens - said)))
