"""Prompts to responses. `Engine` is the protocol; `engines` chooses among torch (the default) and two ways to vLLM."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rlfamily.decoding import Pause
from rlfamily.errors import UserError


@dataclass(frozen=True)
class SamplingParams:
    """How to draw: `temperature` divides the logits; `greedy` takes the likeliest token, at any temperature.

    `max_total_tokens` bounds prompt and response together, as the report counts them, `max_new_tokens` the response
    alone (None: the total only); a response cannot end before it has `min_new_tokens` tokens, its end included or not.
    `repetition_penalty` (1.0: none) and `no_repeat_ngram` (0: none) look back at what was said: the prompt and the
    response so far. `top_k` (0: all) and then `top_p` keep the likeliest tokens only. `stop_ids` end a response as EOS
    does. `logps` asks for the log-prob of each token drawn.
    """

    greedy: bool
    temperature: float
    max_total_tokens: int
    min_new_tokens: int = 0
    max_new_tokens: int | None = None
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    stop_ids: tuple[int, ...] = ()
    logps: bool = False

    @property
    def looks_back(self) -> bool:
        """True when what a token is drawn from depends on what was said before, beyond what the model makes of it."""
        return self.repetition_penalty != 1.0 or self.no_repeat_ngram > 0

    def room(self, prompt: Sequence[int]) -> int:
        """The most tokens that a response to `prompt` can have; not positive when the prompt takes the total."""
        left = self.max_total_tokens - len(prompt)
        return left if self.max_new_tokens is None else min(left, self.max_new_tokens)


@dataclass(frozen=True)
class Completion:
    """One response: token ids with the EOS if it came, and whether EOS is missing: it met a limit, either of the two.

    `logps` are those of the distribution drawn from (penalised, tempered, and cut by top_k and top_p); empty when not
    asked for. `entropy` is the mean, in nats, of those distributions; nan when not asked for, or where the engine
    cannot tell.
    """

    ids: list[int]
    logps: list[float]
    truncated: bool
    entropy: float = math.nan


class Growth(Protocol):
    """N rows that grow from prompts, a part at a time, and are dropped and forked on the way.

    A row runs until it meets its end or a limit. What was passed through the model is not passed again.
    """

    @property
    def running(self) -> list[int]:
        """Rows that can grow, in the order of `options`."""
        ...

    def draw(self, most: int | None = None, rows: Sequence[int] | None = None, pause: Pause | None = None) -> None:
        """Draw up to `most` tokens for each running row, or for those of `rows` alone, while others wait."""
        ...

    def select(self, index: Sequence[int]) -> None:
        """Make row n what row `index[n]` was, for all N; each goes on drawing by its own stream."""
        ...

    def reseed(self, rows: Sequence[int], streams: Sequence[int]) -> None:
        """Let rows draw by these streams from now on."""
        ...

    def options(self, count: int) -> tuple[list[list[int]], list[list[float]]]:
        """The `count` likeliest next tokens of each running row under the model itself, and their log-probs."""
        ...

    def append(self, tokens: Sequence[int]) -> None:
        """Append a given token to each running row."""
        ...

    def uniforms(self) -> list[float]:
        """A number between 0 and 1 of each running row's stream, for its next token."""
        ...

    def completions(self) -> list[Completion]:
        """The rows as they are."""
        ...


class Engine(Protocol):
    """Generates responses to prompts; the same prompts, parameters, seeds and weights give the same responses."""

    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, seeds: Sequence[int], copies: int = 1
    ) -> list[Completion]:
        """Return `copies` responses to each of B prompts, in order, a prompt's together.

        Response k to prompt b uses the random stream `seeds[b] + k` and no other, whatever is drawn beside it.
        """
        ...

    def grow(self, prompts: Sequence[Sequence[int]], params: SamplingParams, streams: Sequence[int]) -> Growth:
        """Rows that grow from N prompts under a caller's eyes; row n draws by `streams[n]`. All are one batch."""
        ...

    def refresh(self) -> None:
        """Draw from the policy as its weights are now."""
        ...


def check_room(prompts: Sequence[Sequence[int]], params: SamplingParams) -> None:
    """Raise UserError when a prompt is empty, or leaves no room for a response."""
    if not all(map(len, prompts)):
        raise UserError(f"rollout: prompt {[len(prompt) > 0 for prompt in prompts].index(False) + 1} of {len(prompts)} "
                        "has no tokens to draw a response from: give every example a text, or leave it out")
    longest = max(map(len, prompts), default=0)
    if longest >= params.max_total_tokens:
        raise UserError(f"rollout: a prompt of {longest} tokens leaves no room below the limit of "
                        f"{params.max_total_tokens}: raise task.max_tokens_rollout in training, "
                        "task.max_tokens_evaluation for held-out prompts")
