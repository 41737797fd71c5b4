"""One step of GRPO on any device: our trainer's, and the plain one of most libraries; on the same rows if asked to.

The plain step is written out here so that it can be read: `generate`, then a padded row for every response with its own
copy of the prompt, log-softmax over the vocabulary at all response tokens of a pass at once, autograd, AdamW.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from bench import theirs
from bench.drawing import Draws, ours
from rlfamily import algorithms
from rlfamily.config import algorithm_settings
from rlfamily.models.batching import Rows, RowTensors, pad
from rlfamily.models.layouts import padded
from rlfamily.models.policy import Policy
from rlfamily.rollout.clock import Clock
from rlfamily.rollout.settings import Drawing
from rlfamily.trainer.loop import Trainer
from rlfamily.trainer.recipe import Recipe
from rlfamily.trainer.sources import TrainBatch

RATE, BETAS, CLIP_NORM = 1e-6, (0.9, 0.999), 1.0


class First(NamedTuple):
    """What two sides must agree on before their time counts: loss, and norm of the gradient before clipping."""

    loss: float
    grad_norm: float


def rewards(rows: list[list[int]]) -> list[float]:
    """The share of even token ids: cheap, and never the same for a whole group."""
    return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in rows]


def batch_of(given: Draws, rows: list[list[int]], logps: list[list[float]]) -> TrainBatch:
    """Responses as the trainer wants them, with what their engine says of them (empty lists: nothing)."""
    prompts = [prompt for prompt in given.prompts for _ in range(given.copies)]
    return TrainBatch(
        Rows(prompts, rows), given.copies, rewards=rewards(rows), parts=[{}] * len(rows), truncated=[False] * len(rows),
        sampler_logp=logps, prompt_texts=[""] * len(rows), texts=[""] * len(rows))


class Rollouts:
    """A source of as many steps as wanted: rows drawn by our engine at each, or the same `recorded` ones at all."""

    steps_per_epoch = 1

    def __init__(self, policy: Policy, given: Draws, steps: int, recorded: list[list[int]] | None = None) -> None:
        self.policy, self.given, self.total_steps, self.recorded = policy, given, steps, recorded

    def batch(self, step: int, clock: Clock) -> TrainBatch:
        """The rows of one step."""
        if self.recorded is not None:
            return batch_of(self.given, self.recorded, [[] for _ in self.recorded])
        drawn = ours(self.policy, self.given, logps=True)
        return batch_of(self.given, [row.ids for row in drawn], [row.logps for row in drawn])

    def log_behaviour(self, step: int, batch: TrainBatch, logp_NT: Tensor) -> None:
        """Nothing is used twice."""

    def state(self) -> dict[str, Any]:
        """None."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


def trainer_of(
    policy: Policy, given: Draws, steps: int, tokens: int, recorded: list[list[int]] | None = None
) -> Trainer:
    """The trainer that runs use, with GRPO and no KL; `tokens` a pass at most."""
    settings = algorithm_settings(
        "grpo", batch_prompts=len(given.prompts), group_size=given.copies,
        kl={"coef": 0.0, "form": "k3", "place": "loss"},
        sampling={"mode": "sample", "temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0,
                  "no_repeat_ngram": 0},
        optimizer={"lr": RATE, "beta1": BETAS[0], "beta2": BETAS[1], "weight_decay": 0.0, "clip_norm": CLIP_NORM,
                   "schedule": "constant", "warmup_steps": 0})
    return Trainer(
        learner=policy, reference=None, source=Rollouts(policy, given, steps, recorded),
        recipe=Recipe.of(algorithms.get("grpo"), settings, 1.0), temperature=1.0,
        micro_tokens=tokens, accelerator=Accelerator(cpu=policy.device.type == "cpu"), seed=0,
        min_new_tokens=0, rollout=Drawing(engine="torch", importance_cap=None))


@dataclass
class Plain:
    """The plain step. `model` has fp32 weights; `dtype` bf16 means autocast, as trl's bf16=True."""

    model: Any
    dtype: str
    tokens: int

    def __post_init__(self) -> None:
        self.model.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=RATE, betas=BETAS, weight_decay=0.0)

    def step(self, given: Draws, recorded: list[list[int]] | None = None) -> First:
        """Draw (unless rows are given), score, update."""
        if recorded is None:
            with self._autocast():
                recorded = theirs.dynamic(self.model, given)
        return self.update(given, recorded)

    def update(self, given: Draws, rows: list[list[int]]) -> First:
        """One update on these rows; the loss is the mean over all tokens of -A ratio, whose ratio is 1."""
        tensors = pad(Rows([prompt for prompt in given.prompts for _ in range(given.copies)], rows),
                      self.model.config.pad_token_id)
        reward_BK = torch.tensor(rewards(rows), device=self.model.device).view(-1, given.copies)
        advantage_BK = (reward_BK - reward_BK.mean(1, keepdim=True)) / (reward_BK.std(1, keepdim=True) + 1e-4)
        advantage_N, count, total = advantage_BK.flatten(), sum(map(len, rows)), 0.0
        rows_a_pass = max(1, self.tokens // padded.inputs(tensors)["input_ids"].shape[1])
        for low in range(0, len(rows), rows_a_pass):
            part = slice(low, low + rows_a_pass)
            logp_NT, mask_NT = self._logps(tensors[part])
            ratio_NT = (logp_NT - logp_NT.detach()).exp()
            loss = -(ratio_NT * advantage_N[part, None] * mask_NT).sum() / count
            torch.autograd.backward(loss)
            total += float(loss.detach())
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return First(total, norm)

    def _logps(self, rows: RowTensors) -> tuple[Tensor, Tensor]:
        """logp_NT of the response tokens, and mask_NT."""
        rows = rows.to(self.model.device)
        with self._autocast():
            logits_NTV = self.model(
                **padded.inputs(rows), logits_to_keep=rows.ids_NT.shape[1] + 1, use_cache=False).logits[:, :-1]
        every_NTV = logits_NTV.float().log_softmax(-1)
        ids_NT1 = rows.ids_NT.unsqueeze(-1)
        return every_NTV.gather(-1, ids_NT1).squeeze(-1), rows.mask_NT

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.dtype == "bf16")
