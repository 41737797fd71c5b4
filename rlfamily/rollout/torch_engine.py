"""The default engine: a transformers model, one random stream per row, finished rows dropped."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rlfamily.models.policy import Policy
from rlfamily.rollout import Completion, SamplingParams, check_room
from rlfamily.rollout.torch_growth import TorchGrowth


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

    def grow(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, streams: Sequence[int]
    ) -> TorchGrowth:
        """Rows that grow under a caller's eyes, all in one batch; see `Growth`.

        Raises UserError as `generate` does.
        """
        check_room(prompts, params)
        self.policy.check_length(params.max_total_tokens)
        with torch.no_grad(), self.policy.autocast():
            return TorchGrowth(self.policy, prompts, params, streams)

    def refresh(self) -> None:
        """Nothing to do: the policy itself is asked."""

    def _generate_batch(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, seeds: Sequence[int]
    ) -> list[Completion]:
        # In bf16 the weights are cast once for all steps, which inference mode, the faster one in fp32, would not keep.
        with torch.inference_mode(self.policy.dtype == "fp32"), torch.no_grad(), self.policy.autocast():
            growth = TorchGrowth(self.policy, prompts, params, seeds)
            growth.draw()
        return growth.completions()
