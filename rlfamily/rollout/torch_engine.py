"""The default engine: a transformers model, one random stream per row, finished rows dropped."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from rlfamily.models import sessions
from rlfamily.models.layouts.calls import start_ids
from rlfamily.models.policy import Policy
from rlfamily.rollout import Completion, SamplingParams, check_room
from rlfamily.rollout.processors import likeliest, penalized, without_repeats


class TorchEngine:
    """Draws from `policy` as its weights are now, at most `batch_rows` rows at a time."""

    def __init__(self, policy: Policy, batch_rows: int) -> None:
        self.policy = policy
        self.batch_rows = batch_rows

    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, seeds: Sequence[int], copies: int = 1
    ) -> list[Completion]:
        """Return `copies` responses to each prompt.

        Raises UserError when a prompt is empty or leaves no room for a response, and beyond the model's positions.
        """
        check_room(prompts, params)
        self.policy.check_length(params.max_total_tokens)
        rows = [prompt for prompt in prompts for _ in range(copies)]
        streams = [seed + copy for seed in seeds for copy in range(copies)]
        completions: list[Completion] = []
        for start in range(0, len(rows), self.batch_rows):
            part = slice(start, start + self.batch_rows)
            completions += self._generate_batch(rows[part], params, streams[part])
        return completions

    def refresh(self) -> None:
        """Nothing to do: the policy itself is asked."""

    def _generate_batch(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, seeds: Sequence[int]
    ) -> list[Completion]:
        # In bf16 the weights are cast once for all steps, which inference mode, the faster one in fp32, would not keep.
        with torch.inference_mode(self.policy.dtype == "fp32"), torch.no_grad(), self.policy.autocast():
            decoding = _Decoding(self.policy, prompts, params, seeds)
            while len(decoding.row_R):
                decoding.step()
        return decoding.completions()


class _Decoding:
    """State of one batch while it is decoded: row_R are the indices of the rows that run, in the session's order."""

    def __init__(
        self, policy: Policy, prompts: Sequence[Sequence[int]], params: SamplingParams, seeds: Sequence[int]
    ) -> None:
        self.params = params
        groups = [(prompt, len(list(same))) for prompt, same in groupby(map(tuple, prompts))]
        self.session = sessions.start(policy, [prompt for prompt, _ in groups], [count for _, count in groups])
        device, room = policy.device, list(map(params.room, prompts))
        self.row_R, self.room_N = torch.arange(len(prompts), device=device), torch.tensor(room, device=device)
        self.stop_ids = torch.tensor(sorted({*policy.stop_ids, *params.stop_ids}), device=device)
        self.uniforms_NT = _uniforms(seeds, max(room)).to(device)
        said_before = _said_before(policy, prompts) if params.looks_back else [[] for _ in prompts]
        self.said_NL, self.start_N = (part.to(device) for part in _said(said_before, max(room)))
        self.ids_NT = self.said_NL[:, self.said_NL.shape[1] - max(room):]
        self.logps_NT = torch.zeros(self.ids_NT.shape, device=device)
        self.entropy_N = torch.zeros(len(prompts), device=device)  # summed over tokens
        self.length_N, self.ended_N = torch.zeros_like(self.room_N), torch.zeros_like(self.room_N, dtype=torch.bool)
        self.count = 0  # tokens that every running row has

    def step(self) -> None:
        """Append one token to every running row; those that end with it run no more."""
        token_R, logp_R = self._choose(self.session.logits_RV)
        self.ids_NT[self.row_R, self.count], self.logps_NT[self.row_R, self.count] = token_R, logp_R
        self.count += 1
        ended_R = torch.isin(token_R, self.stop_ids)
        running_R = ~ended_R & (self.room_N[self.row_R] > self.count)
        self.ended_N[self.row_R] = ended_R
        self.length_N[self.row_R] = self.count
        if not running_R.all():
            index_R = _kept(running_R)
            self.row_R, token_R = self.row_R[index_R], token_R[index_R]
            if len(self.row_R):
                self.session.select(index_R)
        if len(self.row_R):
            self.session.step(token_R)

    def completions(self) -> list[Completion]:
        """The finished responses, in the order of the prompts."""
        of_rows = self.ids_NT, self.logps_NT, self.length_N, self.ended_N, self.entropy_N / self.length_N
        rows = zip(*(part.tolist() for part in of_rows), strict=True)
        return [Completion(ids[:length], logps[:length], not ended, entropy) if self.params.logps
                else Completion(ids[:length], [], not ended) for ids, logps, length, ended, entropy in rows]

    def _choose(self, logits_RV: Tensor) -> tuple[Tensor, Tensor]:
        """A token for every running row and its log-prob: by the row's own uniforms, or the likeliest."""
        if self.count < self.params.min_new_tokens:
            logits_RV[:, self.stop_ids] = -torch.inf  # before the softmax: log-probs are of what is drawn from
        logits_RV = self._looking_back(logits_RV.float()) / self.params.temperature
        logps_RV = torch.log_softmax(likeliest(logits_RV, self.params.top_k, self.params.top_p), -1)
        if self.params.greedy:
            token_R1 = logps_RV.argmax(-1, keepdim=True)
        else:  # the inverse of the distribution function
            cumulative_RV = logps_RV.double().exp().cumsum(-1)
            target_R1 = self.uniforms_NT[self.row_R, self.count].unsqueeze(1) * cumulative_RV[:, -1:]
            token_R1 = torch.searchsorted(cumulative_RV, target_R1, right=True).clamp(max=logps_RV.shape[1] - 1)
        if self.params.logps:  # finite where excluded: 0 x -inf is no number
            self.entropy_N[self.row_R] -= (logps_RV.exp() * logps_RV.clamp(min=torch.finfo(logps_RV.dtype).min)).sum(1)
        return token_R1[:, 0], logps_RV.gather(1, token_R1)[:, 0]

    def _looking_back(self, logits_RV: Tensor) -> Tensor:
        """The logits after what their rows have said so far."""
        if not self.params.looks_back:
            return logits_RV
        said_RL = self.said_NL[self.row_R, :self.said_NL.shape[1] - self.ids_NT.shape[1] + self.count]
        start_R = self.start_N[self.row_R]
        if self.params.repetition_penalty != 1.0:
            logits_RV = penalized(logits_RV, said_RL, start_R, self.params.repetition_penalty)
        if self.params.no_repeat_ngram:
            logits_RV = without_repeats(logits_RV, said_RL, start_R, self.params.no_repeat_ngram)
        return logits_RV


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
