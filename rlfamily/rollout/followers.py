"""What scores rows while they grow, beside the policy: each token goes through a scoring model once.

    follower = ValueFollower(value, prompts)       # one row a prompt, empty
    follower.extend([[3, 5], []])                  # rows get tokens, some none; their scores as they are now
    follower.branch([[7, 8], [7, 9]])              # every row with each of its options: scores; rows are those now
    follower.select([0, 3])                        # row r becomes what row index[r] was
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from rlfamily.models import sessions
from rlfamily.models.policy import Policy
from rlfamily.models.value import ValueFunction

Tokens = Sequence[int]

ScoreTexts = Callable[[Sequence[int], Sequence[Tokens]], list[float]]
"""(place of each row's prompt, its response so far in the policy's tokens) to scores."""


class Follower(Protocol):
    """R rows that grow beside those of a policy, and what they are worth."""

    def extend(self, tokens: Sequence[Tokens]) -> list[float]:
        """Give each row more tokens, or none; the scores of all."""
        ...

    def branch(self, options: Sequence[Tokens]) -> list[list[float]]:
        """Row r becomes as many rows as it has options, each with one of them behind it; their scores."""
        ...

    def select(self, index: Sequence[int]) -> None:
        """Make row r what row `index[r]` was."""
        ...


class ValueFollower:
    """V of every row, by a session of the value function. Its tokens are the policy's."""

    def __init__(self, value: ValueFunction, prompts: Sequence[Tokens]) -> None:
        self.value = value
        with torch.no_grad():
            self.session = sessions.start_rows(value, prompts)

    @torch.no_grad()
    def extend(self, tokens: Sequence[Tokens]) -> list[float]:
        """V of each row with its new tokens."""
        if any(map(len, tokens)):
            self.session.extend(*_grid(tokens, self.value.device))
        return self._scores()

    @torch.no_grad()
    def branch(self, options: Sequence[Tokens]) -> list[list[float]]:
        """V of each row with each of its options."""
        self.session.select(_repeats(options, self.value.device))
        self.session.step(torch.tensor([token for some in options for token in some], device=self.value.device))
        return _parted(self._scores(), options)

    @torch.no_grad()
    def select(self, index: Sequence[int]) -> None:
        """Make row r what row `index[r]` was."""
        self.session.select(torch.tensor(index, dtype=torch.long, device=self.value.device))

    def _scores(self) -> list[float]:
        found: list[float] = self.session.logits_RV[:, 0].float().tolist()
        return found


class PairFollower:
    """Of every row the sum of log pi_tuned - log pi_untuned over its tokens, by a session of each model."""

    def __init__(self, tuned: Policy, untuned: Policy, prompts: Sequence[Tokens]) -> None:
        self.device = tuned.device
        with torch.no_grad():
            self.sessions = [sessions.start_rows(model, prompts) for model in (tuned, untuned)]
        self.sum_R = torch.zeros(len(prompts), device=self.device)

    @torch.no_grad()
    def extend(self, tokens: Sequence[Tokens]) -> list[float]:
        """The sums with the new tokens."""
        if any(map(len, tokens)):
            ids_RL, count_R = _grid(tokens, self.device)
            real_RL = torch.arange(ids_RL.shape[1], device=self.device) < count_R[:, None]
            for sign, session in zip((1, -1), self.sessions, strict=True):
                first_R1V = session.logits_RV[:, None].clone()
                logits_RLV = torch.cat([first_R1V, session.extend(ids_RL, count_R)[:, :-1]], 1).float()
                logps_RL = torch.log_softmax(logits_RLV, -1).gather(2, ids_RL[..., None])[..., 0]
                self.sum_R = self.sum_R + sign * logps_RL.masked_fill(~real_RL, 0.0).sum(1)
        return self._scores()

    @torch.no_grad()
    def branch(self, options: Sequence[Tokens]) -> list[list[float]]:
        """The sums with each option."""
        self.select(_repeats(options, self.device).tolist())
        return _parted(self.extend([[token] for some in options for token in some]), options)

    @torch.no_grad()
    def select(self, index: Sequence[int]) -> None:
        """Make row r what row `index[r]` was."""
        index_R = torch.tensor(index, dtype=torch.long, device=self.device)
        for session in self.sessions:
            session.select(index_R)
        self.sum_R = self.sum_R[index_R]

    def _scores(self) -> list[float]:
        found: list[float] = self.sum_R.tolist()
        return found


class TextFollower:
    """What `score` says of whole texts: for models with tokens of their own, and rewards that are no model.

    The text of a part may be other tokens than a part of the text: nothing that was passed can be used again, but what
    was said of a text, which is asked for once. Row r is of the prompt at place `prompts[r]`.
    """

    def __init__(self, score: ScoreTexts, prompts: Sequence[int]) -> None:
        self.score = score
        self.rows: list[tuple[int, tuple[int, ...]]] = [(place, ()) for place in prompts]
        self.told: dict[tuple[int, tuple[int, ...]], float] = {}

    def extend(self, tokens: Sequence[Tokens]) -> list[float]:
        """Scores of the rows with their new tokens."""
        self.rows = [(place, (*ids, *new)) for (place, ids), new in zip(self.rows, tokens, strict=True)]
        new_ones = [row for row in dict.fromkeys(self.rows) if row not in self.told]
        if new_ones:
            scores = self.score([place for place, _ in new_ones], [ids for _, ids in new_ones])
            self.told |= dict(zip(new_ones, scores, strict=True))
        return [self.told[row] for row in self.rows]

    def branch(self, options: Sequence[Tokens]) -> list[list[float]]:
        """Scores of the rows with each option."""
        self.rows = [row for row, some in zip(self.rows, options, strict=True) for _ in some]
        return _parted(self.extend([[token] for some in options for token in some]), options)

    def select(self, index: Sequence[int]) -> None:
        """Make row r what row `index[r]` was."""
        self.rows = [self.rows[place] for place in index]
        self.told = {row: self.told[row] for row in self.rows if row in self.told}


class Weighted:
    """The weighted sum of what several followers say."""

    def __init__(self, followers: Sequence[Follower], weights: Sequence[float]) -> None:
        self.followers, self.weights = followers, weights

    def extend(self, tokens: Sequence[Tokens]) -> list[float]:
        """The sum of each row."""
        return self._sums([follower.extend(tokens) for follower in self.followers])

    def branch(self, options: Sequence[Tokens]) -> list[list[float]]:
        """The sum of each row with each of its options."""
        told = [follower.branch(options) for follower in self.followers]
        return [self._sums(of_row) for of_row in zip(*told, strict=True)]

    def select(self, index: Sequence[int]) -> None:
        """Make row r what row `index[r]` was."""
        for follower in self.followers:
            follower.select(index)

    def _sums(self, told: Sequence[Sequence[float]]) -> list[float]:
        return [sum(weight * score for weight, score in zip(self.weights, scores, strict=True))
                for scores in zip(*told, strict=True)]


def _grid(tokens: Sequence[Tokens], device: torch.device) -> tuple[Tensor, Tensor]:
    """ids_RL, padded on the right, and count_R."""
    counts = list(map(len, tokens))
    rows = [[*ids, *[0] * (max(counts) - len(ids))] for ids in tokens]
    return torch.tensor(rows, dtype=torch.long, device=device), torch.tensor(counts, device=device)


def _repeats(options: Sequence[Tokens], device: torch.device) -> Tensor:
    """The row that each option goes behind."""
    counts = torch.tensor(list(map(len, options)), device=device)
    return torch.arange(len(options), device=device).repeat_interleave(counts)


def _parted(scores: Sequence[float], options: Sequence[Tokens]) -> list[list[float]]:
    """Scores of options, row by row."""
    left = iter(scores)
    return [[next(left) for _ in some] for some in options]
