"""Rows that grow from prompts in transformers: one random stream per row, finished rows dropped, others forked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rlfamily.decoding import Pause
from rlfamily.models import sessions
from rlfamily.models.layouts.calls import start_ids
from rlfamily.models.policy import Policy
from rlfamily.rollout import Completion, SamplingParams
from rlfamily.rollout.processors import likeliest, penalized, without_repeats


class TorchGrowth:
    """N rows while they grow, as `Growth` says: row_R are the indices of those that run, in the session's order."""

    def __init__(
        self, policy: Policy, prompts: Sequence[Sequence[int]], params: SamplingParams, streams: Sequence[int]
    ) -> None:
        self.policy, self.params, self.device = policy, params, policy.device
        self.session = sessions.start_rows(policy, prompts)
        room = list(map(params.room, prompts))
        self.row_R, self.room_N = torch.arange(len(prompts), device=self.device), self._integers(room)
        self.stop_ids = self._integers(sorted({*policy.stop_ids, *params.stop_ids}))
        self.uniforms_NT = _uniforms(streams, max(room)).to(self.device)
        said_before = _said_before(policy, prompts) if params.looks_back else [[] for _ in prompts]
        self.said_NL, self.start_N = (part.to(self.device) for part in _said(said_before, max(room)))
        self.ids_NT = self.said_NL[:, self.said_NL.shape[1] - max(room):]
        self.logps_NT = torch.zeros(self.ids_NT.shape, device=self.device)
        self.entropy_N = torch.zeros(len(prompts), device=self.device)  # summed over tokens
        self.length_N, self.ended_N = torch.zeros_like(self.room_N), torch.zeros_like(self.room_N, dtype=torch.bool)

    def reseed(self, rows: Sequence[int], streams: Sequence[int]) -> None:
        """Let rows draw by these streams from now on."""
        self.uniforms_NT[list(rows)] = _uniforms(streams, self.uniforms_NT.shape[1]).to(self.device)

    @property
    def running(self) -> list[int]:
        """Rows that can grow."""
        return self.row_R.tolist()

    @torch.no_grad()
    def draw(self, most: int | None = None, rows: Sequence[int] | None = None, pause: Pause | None = None) -> None:
        """Draw up to `most` tokens for each running row, or for those of `rows` alone, while others wait."""
        start_N = self.length_N.clone()
        with self.policy.autocast():
            while len(self.row_R):
                going_R = self._going(start_N, most, rows, pause)
                if going_R is not None and not going_R.any():
                    return
                self._append(*self._choose(self.session.logits_RV, going_R), going_R)

    def _going(
        self, start_N: Tensor, most: int | None, rows: Sequence[int] | None, pause: Pause | None
    ) -> Tensor | None:
        """Which of the running rows draw one more token; None: all of them."""
        if most is None and rows is None and pause is None:
            return None
        going_R = torch.ones_like(self.row_R, dtype=torch.bool)
        if rows is not None:
            going_R &= torch.isin(self.row_R, self._integers(rows))
        grown_R = (self.length_N - start_N)[self.row_R]
        if most is not None:
            going_R &= grown_R < most
        if pause is not None:
            logps_RV = torch.log_softmax(self.session.logits_RV.float(), -1)
            going_R &= (grown_R < pause.least) | (-(logps_RV.exp() * logps_RV).sum(1) < pause.entropy)
        return None if going_R.all() else going_R

    @torch.no_grad()
    def append(self, tokens: Sequence[int]) -> None:
        """Append a given token to each running row."""
        token_R = self._integers(tokens)
        with self.policy.autocast():
            logps_RV = torch.log_softmax(self.session.logits_RV.float(), -1)
            logp_R = logps_RV.gather(1, token_R[:, None])[:, 0]
            self._append(token_R, logp_R, None)

    @torch.no_grad()
    def options(self, count: int) -> tuple[list[list[int]], list[list[float]]]:
        """The `count` likeliest next tokens of running rows under the model itself, and their log-probs."""
        logits_RV = self._ends_excluded(self.session.logits_RV.float().clone())
        logps_RK, token_RK = torch.log_softmax(logits_RV, -1).topk(min(count, logits_RV.shape[1]), -1)
        return token_RK.tolist(), logps_RK.tolist()

    def uniforms(self) -> list[float]:
        """A number between 0 and 1 of each running row's stream, for its next token."""
        return self._uniform_R().tolist()

    def _uniform_R(self) -> Tensor:
        return self.uniforms_NT[self.row_R, self.length_N[self.row_R]]

    @torch.no_grad()
    def select(self, index: Sequence[int]) -> None:
        """Make row n what row `index[n]` was, for all N; each goes on drawing by its own stream."""
        index_N = self._integers(index)
        place_N = torch.full_like(self.room_N, -1)
        place_N[self.row_R] = torch.arange(len(self.row_R), device=self.device)
        ids_from = self.said_NL.shape[1] - self.ids_NT.shape[1]
        for name in ("said_NL", "start_N", "logps_NT", "entropy_N", "length_N", "ended_N", "room_N"):
            setattr(self, name, getattr(self, name)[index_N])
        self.ids_NT = self.said_NL[:, ids_from:]
        self.row_R = (~self.ended_N & (self.length_N < self.room_N)).nonzero()[:, 0]
        if len(self.row_R):
            self.session.select(place_N[index_N[self.row_R]])

    def completions(self) -> list[Completion]:
        """The rows as they are, in the order of the prompts."""
        of_rows = self.ids_NT, self.logps_NT, self.length_N, self.ended_N, self.entropy_N / self.length_N
        rows = zip(*(part.tolist() for part in of_rows), strict=True)
        return [Completion(ids[:length], logps[:length], not ended, entropy) if self.params.logps
                else Completion(ids[:length], [], not ended) for ids, logps, length, ended, entropy in rows]

    def _append(self, token_R: Tensor, logp_R: Tensor, going_R: Tensor | None) -> None:
        row_R = self.row_R
        grown_R, new_R, logps_R = (
            part if going_R is None else part[going_R] for part in (row_R, token_R, logp_R))
        place_R = self.length_N[grown_R]
        self.ids_NT[grown_R, place_R] = new_R
        self.logps_NT[grown_R, place_R] = logps_R
        self.length_N[grown_R] = place_R + 1
        ended_R = torch.isin(token_R, self.stop_ids)
        ended_R = ended_R if going_R is None else ended_R & going_R
        running_R = ~ended_R & (self.room_N[row_R] > self.length_N[row_R])
        self.ended_N[row_R] = ended_R
        if not running_R.all():
            index_R = _kept(running_R)
            self.row_R, token_R = row_R[index_R], token_R[index_R]
            going_R = None if going_R is None else going_R[index_R]
            if len(self.row_R):
                self.session.select(index_R)
        if len(self.row_R) and going_R is None:
            self.session.step(token_R)
        elif len(self.row_R) and going_R is not None:
            self.session.extend(token_R[:, None], going_R.long())

    def _choose(self, logits_RV: Tensor, going_R: Tensor | None) -> tuple[Tensor, Tensor]:
        """A token for every running row and its log-prob: by the row's own uniforms, or the likeliest."""
        logits_RV = self._ends_excluded(logits_RV)  # before the softmax: log-probs are of what is drawn from
        logits_RV = self._looking_back(logits_RV.float()) / self.params.temperature
        logps_RV = torch.log_softmax(likeliest(logits_RV, self.params.top_k, self.params.top_p), -1)
        if self.params.greedy:
            token_R1 = logps_RV.argmax(-1, keepdim=True)
        else:  # the inverse of the distribution function
            cumulative_RV = logps_RV.double().exp().cumsum(-1)
            target_R1 = self._uniform_R()[:, None] * cumulative_RV[:, -1:]
            token_R1 = torch.searchsorted(cumulative_RV, target_R1, right=True).clamp(max=logps_RV.shape[1] - 1)
        if self.params.logps:  # finite where excluded: 0 x -inf is no number
            entropy_R = -(logps_RV.exp() * logps_RV.clamp(min=torch.finfo(logps_RV.dtype).min)).sum(1)
            self.entropy_N[self.row_R] += entropy_R if going_R is None else entropy_R * going_R
        return token_R1[:, 0], logps_RV.gather(1, token_R1)[:, 0]

    def _ends_excluded(self, logits_RV: Tensor) -> Tensor:
        """The logits, in place, without an end for rows that may not end yet."""
        if self.params.min_new_tokens:
            early_R = (self.length_N[self.row_R] < self.params.min_new_tokens).nonzero()
            logits_RV[early_R, self.stop_ids] = -torch.inf
        return logits_RV

    def _looking_back(self, logits_RV: Tensor) -> Tensor:
        """The logits after what their rows have said so far."""
        if not self.params.looks_back:
            return logits_RV
        said_RL, start_R = self._said_so_far()
        if self.params.repetition_penalty != 1.0:
            logits_RV = penalized(logits_RV, said_RL, start_R, self.params.repetition_penalty)
        if self.params.no_repeat_ngram:
            logits_RV = without_repeats(logits_RV, said_RL, start_R, self.params.no_repeat_ngram)
        return logits_RV

    def _said_so_far(self) -> tuple[Tensor, Tensor]:
        """said_RL, which ends with each row's last token, and where it starts."""
        length_R = self.length_N[self.row_R]
        before, longest = self.said_NL.shape[1] - self.ids_NT.shape[1], int(length_R.max())
        shift_R = longest - length_R
        place_RL = torch.arange(before + longest, device=self.device) - shift_R[:, None]
        return self.said_NL[self.row_R].gather(1, place_RL.clamp(min=0)), self.start_N[self.row_R] + shift_R

    def _integers(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.device)


def _said_before(policy: Policy, prompts: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
    """What counts as said when a response begins, as transformers' `generate` counts: what the model goes on from."""
    return [start_ids(policy.model)] * len(prompts) if policy.model.config.is_encoder_decoder else prompts


def _said(before: Sequence[Sequence[int]], room: int) -> tuple[Tensor, Tensor]:
    """said_NL, where each row's tokens so far end at the same place with `room` behind it, and where they start."""
    width = max(map(len, before), default=0)
    rows = [[0] * (width - len(row)) + list(row) + [0] * room for row in before]
    return torch.tensor(rows, dtype=torch.long), torch.tensor([width - len(row) for row in before])


def _kept(running_R: Tensor) -> Tensor:
    """Places of the running rows, such that most stay where they are: the last ones fill the gaps."""
    count = int(running_R.sum())
    index_R = torch.arange(count, device=running_R.device)
    index_R[~running_R[:count]] = count + running_R[count:].nonzero()[:, 0]
    return index_R


def _uniforms(seeds: Sequence[int], length: int) -> Tensor:
    """uniforms_NT: row n comes from its own generator, so a row's draw is the same in any batch."""
    return torch.stack([_stream(seed, length) for seed in seeds])


def _stream(seed: int, length: int) -> Tensor:
    """Uniforms of one row, by all bits of its seed.

    torch's generator reads 32 of them. What it draws is turned around the circle by what numpy's draws from the rest,
    where there is a rest.
    """
    drawn_T = torch.rand(length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rest = seed >> 32
    return (drawn_T + torch.from_numpy(np.random.default_rng(rest).random(length))) % 1.0 if rest else drawn_T
