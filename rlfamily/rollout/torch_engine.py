"""The default engine: a transformers model, a KV cache, one random stream per row, finished rows dropped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor
from transformers import DynamicCache

from rlfamily.models.batching import Rows, pad
from rlfamily.models.policy import Policy
from rlfamily.rollout import Completion, SamplingParams, check_room


class TorchEngine:
    """Draws from `policy` as its weights are now, at most `batch_rows` rows at a time."""

    def __init__(self, policy: Policy, batch_rows: int) -> None:
        self.policy = policy
        self.batch_rows = batch_rows

    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, seeds: Sequence[int], copies: int = 1
    ) -> list[Completion]:
        """Return `copies` responses to each prompt. Raises UserError when a prompt leaves no room for a response."""
        check_room(prompts, params)
        rows = [prompt for prompt in prompts for _ in range(copies)]
        streams = [seed + copy for seed in seeds for copy in range(copies)]
        completions: list[Completion] = []
        for start in range(0, len(rows), self.batch_rows):
            part = slice(start, start + self.batch_rows)
            completions += self._generate_batch(rows[part], params, streams[part])
        return completions

    def refresh(self) -> None:
        """Nothing to do: the policy itself is asked."""

    @torch.inference_mode()
    def _generate_batch(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, seeds: Sequence[int]
    ) -> list[Completion]:
        decoding = _Decoding(self.policy, prompts, params, seeds)
        for logits_NV in decoding.steps():
            decoding.choose(logits_NV)
        return decoding.completions()


class _Decoding:
    """State of one batch while it is decoded: `rows` are the indices still running, the cache holds just those."""

    def __init__(
        self, policy: Policy, prompts: Sequence[Sequence[int]], params: SamplingParams, seeds: Sequence[int]
    ) -> None:
        self.policy, self.params = policy, params
        self.stop_ids = {policy.eos_id, *params.stop_ids}
        self.room_N = [params.max_total_tokens - len(prompt) for prompt in prompts]
        self.uniforms_NT = _uniforms(seeds, max(self.room_N)).to(policy.device)
        self.ids: list[list[int]] = [[] for _ in prompts]
        self.logps: list[list[float]] = [[] for _ in prompts]
        self.ended = [False] * len(prompts)
        self.rows = list(range(len(prompts)))
        self.cache = DynamicCache(config=policy.model.config)
        self.attention: Tensor
        self.repeats = [len(list(group)) for _, group in groupby(tuple(prompt) for prompt in prompts)]
        starts = [sum(self.repeats[:index]) for index in range(len(self.repeats))]
        self.unique_prompts = [prompts[start] for start in starts]

    def steps(self) -> Iterator[Tensor]:
        """Yield logits_NV for the rows still running, until none is."""
        logits_NV = self._prefill()
        while True:
            yield logits_NV
            self._drop_finished()
            if not self.rows:
                return
            last = torch.tensor([[self.ids[row][-1]] for row in self.rows], device=self.policy.device)
            self.attention = torch.cat([self.attention, self.attention.new_ones(len(self.rows), 1)], 1)
            logits_NV = self._forward(last, (self.attention.sum(1, keepdim=True) - 1))

    def choose(self, logits_NV: Tensor) -> None:
        """Append one token to every running row: inverse-CDF sampling with the row's own uniforms, or argmax."""
        step = len(self.ids[self.rows[0]])
        if step < self.params.min_new_tokens:
            logits_NV[:, list(self.stop_ids)] = -torch.inf  # before the softmax: log-probs are of what is drawn from
        logits_NV = logits_NV.float() / self.params.temperature
        logps_NV = torch.log_softmax(_likeliest(logits_NV, self.params.top_k, self.params.top_p), -1)
        if self.params.greedy:
            token_N = logps_NV.argmax(-1)
        else:
            cumulative_NV = logps_NV.double().exp().cumsum(-1)
            target_N1 = self.uniforms_NT[self.rows, step].unsqueeze(1) * cumulative_NV[:, -1:]
            token_N = torch.searchsorted(cumulative_NV, target_N1, right=True).squeeze(1)
            token_N = token_N.clamp(max=logps_NV.shape[1] - 1)
        chosen_N = logps_NV.gather(1, token_N.unsqueeze(1)).squeeze(1)
        for row, token, logp in zip(self.rows, token_N.tolist(), chosen_N.tolist(), strict=True):
            self.ids[row].append(token)
            self.logps[row].append(logp)
            self.ended[row] = token in self.stop_ids

    def completions(self) -> list[Completion]:
        """The finished responses, in the order of the prompts."""
        return [Completion(ids, logps if self.params.logps else [], not ended)
                for ids, logps, ended in zip(self.ids, self.logps, self.ended, strict=True)]

    def _prefill(self) -> Tensor:
        """Run each distinct prompt once, then copy its cache to the rows of its group."""
        padded = pad(Rows(list(self.unique_prompts), [[] for _ in self.unique_prompts]), self.policy.pad_id)
        width = padded.ids_NL.shape[1] - padded.mask_NT.shape[1]
        self.attention = padded.attention_NL[:, :width].to(self.policy.device)
        logits_NV = self._forward(padded.ids_NL[:, :width].to(self.policy.device),
                                  padded.positions_NL[:, :width].to(self.policy.device))
        index = torch.arange(len(self.repeats)).repeat_interleave(torch.tensor(self.repeats)).to(self.policy.device)
        self.cache.batch_select_indices(index)
        self.attention = self.attention[index]
        return logits_NV[index]

    def _forward(self, ids: Tensor, position_ids: Tensor) -> Tensor:
        with self.policy.autocast():
            output = self.policy.model(
                input_ids=ids, attention_mask=self.attention, position_ids=position_ids,
                past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        return output.logits[:, -1]

    def _drop_finished(self) -> None:
        keep = [place for place, row in enumerate(self.rows)
                if not self.ended[row] and len(self.ids[row]) < self.room_N[row]]
        if len(keep) == len(self.rows):
            return
        self.rows = [self.rows[place] for place in keep]
        if keep:
            index = torch.tensor(keep, device=self.policy.device)
            self.cache.batch_select_indices(index)
            self.attention = self.attention[index]


def _uniforms(seeds: Sequence[int], length: int) -> Tensor:
    """uniforms_NT: row n comes from its own generator, so a row's draw is the same in any batch."""
    return torch.stack([
        torch.rand(length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in seeds
    ])


def _likeliest(logits_NV: Tensor, top_k: int, top_p: float) -> Tensor:
    """logits_NV with all but the top_k likeliest tokens at -inf, then all but the fewest that reach top_p together."""
    if 0 < top_k < logits_NV.shape[1]:
        least_N1 = logits_NV.topk(top_k, -1).values[:, -1:]
        logits_NV = logits_NV.masked_fill(logits_NV < least_N1, -torch.inf)
    if top_p < 1.0:
        sorted_NV, order_NV = logits_NV.sort(-1, descending=True)
        before_NV = sorted_NV.softmax(-1).cumsum(-1) - sorted_NV.softmax(-1)  # 0 at the likeliest: it always stays
        cut_NV = torch.zeros_like(before_NV, dtype=torch.bool).scatter(1, order_NV, before_NV >= top_p)
        logits_NV = logits_NV.masked_fill(cut_NV, -torch.inf)
    return logits_NV
