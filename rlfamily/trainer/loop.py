"""The training loop: a generator of step records, blind to the algorithm it runs.

The loss is differentiated with respect to the log-probs (and the critic's values) of the whole batch, and those
gradients are then pushed through the model pass by pass, process by process. Any loss, whatever it normalises over,
therefore gives the same update however the rows are split, and however the weights are sharded. Rows just drawn from
the very weights need no pass to know their log-probs: the sampler has them, so that each row is passed once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from rlfamily.algorithms import Algorithm, LossBatch, LossOutput, needs
from rlfamily.algorithms.settings import AlgorithmSettings
from rlfamily.models import sharding
from rlfamily.models.batching import Forward, Padded, pad
from rlfamily.models.policy import Policy
from rlfamily.models.sharded import is_sharded
from rlfamily.rollout.clock import Clock
from rlfamily.rollout.settings import Drawing
from rlfamily.rollout.steps import step_ends
from rlfamily.settings import PairTraining
from rlfamily.streams import loss_seed
from rlfamily.trainer.learner import Learner
from rlfamily.trainer.metrics import engine_gap, reference_metrics, samples, step_metrics
from rlfamily.trainer.optimization import build_optimizer, build_schedule
from rlfamily.trainer.passes import Met, Passes
from rlfamily.trainer.sources import Source, TrainBatch


@dataclass(frozen=True)
class StepRecord:
    """One step: deterministic `metrics`, wall-clock `timings` in seconds, and the `samples` it drew."""

    step: int
    metrics: dict[str, float]
    timings: dict[str, float]
    samples: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Old:
    """What stays as it is while a batch is reused: log-probs of behaviour and reference, first values, step ends."""

    logp_NT: Tensor
    ref_logp_NT: Tensor | None
    values_NT: Tensor | None
    step_ends_NS: Tensor | None


@dataclass
class Trainer:
    """Everything a run needs, already built. `reference` is the frozen initial policy, None when nobody asks.

    `temperature` and `min_new_tokens` are those that the rows were drawn with; `seed` fixes what chance a loss uses.
    `rollout` says what drew them and how its disagreement is dealt with; None for rows that are not drawn here.
    """

    learner: Learner
    reference: Policy | None
    source: Source
    algorithm: Algorithm
    settings: AlgorithmSettings | PairTraining
    temperature: float
    lr_multiplier: float
    micro_tokens: int
    accelerator: Accelerator
    seed: int
    min_new_tokens: int
    rollout: Drawing | None = None

    def __post_init__(self) -> None:
        self.needs = needs(self.algorithm, self.settings)
        if "value" in self.needs:
            assert isinstance(self.learner, Policy)
            self.learner.add_value_head()
        self.weights = list(self.learner.trainable().values())
        self.parameters = [sharding.share(weight) for weight in self.weights]
        self.optimizer = build_optimizer(self.parameters, self.settings.optimizer, self.lr_multiplier)
        self.schedule = build_schedule(
            self.optimizer, self.settings.optimizer, self.source.total_steps * self.settings.inner_updates)
        self.passes = Passes(self.accelerator, self.micro_tokens, self.temperature, self.sharded)
        self.step = 0
        self.reward_sum, self.reward_count = 0.0, 0

    @property
    def progress(self) -> float:
        """Fraction of the steps already taken."""
        return self.step / self.source.total_steps

    @property
    def sharded(self) -> bool:
        """True when each process holds a share of the weights: passes, `checkpoint.save` and `save` are collective."""
        return any(map(is_sharded, self.weights))

    def steps(self) -> Iterator[StepRecord]:
        """Train from the current step to the end, yielding a record after each; stop it when you like."""
        while self.step < self.source.total_steps:
            yield self._train_step()

    def _train_step(self) -> StepRecord:
        clock = Clock()
        batch = self.source.batch(self.step, clock)
        clock.lap("seconds_generate")
        padded = replace(pad(batch.rows, self.learner.pad_id), min_new_tokens=self.min_new_tokens)
        ref_logp_NT, drawn_NT = self._reference_logp(padded), self._per_token(batch.sampler_logp, padded)
        forward = self._as_drawn(batch, drawn_NT) or self.passes.forward(self.learner, padded)
        # Unless logged before, the behaviour policy is the one of this moment: its log-probs are the first forward's.
        logged_NT = self._per_token(batch.old_logp, padded)
        old = Old(forward.leaf.detach() if logged_NT is None else logged_NT, ref_logp_NT,
                  None if forward.values_NT is None else forward.values_NT.detach(), self._step_ends(batch))
        weights_NT, found = engine_gap(drawn_NT, old.logp_NT, padded.mask_NT, self.rollout)
        clock.lap("seconds_forward")
        lr = float(self.schedule.get_last_lr()[0])
        for update in range(self.settings.inner_updates):
            forward = forward if update == 0 else self.passes.forward(self.learner, padded)
            loss_batch = self._loss_batch(batch, padded, forward, old, update)
            output, norm, met = self._update(padded, loss_batch, forward, weights_NT)
            if forward.leaf is drawn_NT:  # only the rows that were passed can tell how far the sampler was off
                _, found = engine_gap(drawn_NT[met.rows_N], met.leaf, padded.mask_NT[met.rows_N.cpu()], self.rollout)
        clock.lap("seconds_update")
        metrics = step_metrics(batch, forward, output, norm) | found | reference_metrics(loss_batch, ref_logp_NT)
        metrics |= {"step": self.step, "epoch": self.step // self.source.steps_per_epoch, "progress": self.progress,
                    "lr": lr}
        self.source.log_behaviour(self.step, batch, old.logp_NT)
        self.reward_sum += sum(batch.rewards)
        self.reward_count += len(batch.rewards)
        self.step += 1
        return StepRecord(self.step - 1, metrics, clock.laps, samples(batch, self.step - 1))

    def _loss_batch(
        self, batch: TrainBatch, padded: Padded, forward: Forward, old: Old, update: int
    ) -> LossBatch:
        """What the loss sees: the forward as leaves of its own, and of the rest only what NEEDS names."""
        leaf = forward.leaf.detach().requires_grad_()
        mask_NT = padded.mask_NT.to(self.learner.device)
        if self.settings.mask_truncated and batch.truncated:
            mask_NT = mask_NT * ~torch.tensor(batch.truncated, device=mask_NT.device).unsqueeze(1)
        logp_NT = leaf if self.learner.token_level else torch.zeros_like(mask_NT)
        rewards = torch.tensor(batch.rewards or [0.0] * len(batch.rows), device=mask_NT.device)
        return LossBatch(
            logp_NT=logp_NT, mask_NT=mask_NT, rewards_N=rewards if self.learner.token_level else leaf,
            group_size=batch.group_size,
            old_logp_NT=old.logp_NT if "old" in self.needs else None,
            ref_logp_NT=old.ref_logp_NT if "ref" in self.needs else None,
            values_NT=None if forward.values_NT is None else forward.values_NT.detach().requires_grad_(),
            old_values_NT=old.values_NT, step_ends_NS=old.step_ends_NS,
            generator=self._generator(update) if "generator" in self.needs else None,
            progress=self.progress, running_reward=self.reward_sum / max(1, self.reward_count),
        )

    def _generator(self, update: int) -> torch.Generator:
        """A stream for this update alone, so that a resumed run draws what an unbroken one does; on the CPU."""
        return torch.Generator().manual_seed(loss_seed(self.seed, self.step, update))

    def _step_ends(self, batch: TrainBatch) -> Tensor | None:
        """step_ends_NS of the responses as generated; a row with fewer steps repeats its length."""
        if "steps" not in self.needs:
            return None
        ends = [step_ends(self.learner.tokenizer, ids) for ids in batch.rows.completions]
        width = max(map(len, ends))
        rows = [row + [len(ids)] * (width - len(row)) for row, ids in zip(ends, batch.rows.completions, strict=True)]
        return torch.tensor(rows, device=self.learner.device)

    def _as_drawn(self, batch: TrainBatch, drawn_NT: Tensor | None) -> Forward | None:
        """The sampler's word for the log-probs of rows just drawn; None where only a pass can tell.

        The torch engine draws from these very weights, through the same attention: in fp32 it is off by rounding, which
        the step's mismatch measures afterwards. bf16 rounds otherwise in batches of other shapes, vLLM is another code.
        """
        exact = (self.rollout is not None and self.rollout.engine == "torch" and self.rollout.importance_cap is None
                 and self.accelerator.num_processes == 1 and "value" not in self.needs)
        if not exact or drawn_NT is None or any(batch.old_logp) or self.learner.dtype != "fp32":
            return None
        return Forward(drawn_NT, torch.tensor(batch.sampler_entropy))

    def _update(
        self, padded: Padded, batch: LossBatch, forward: Forward, weights_NT: Tensor | None
    ) -> tuple[LossOutput, float, Met]:
        """One optimiser step, the gradient of each log-prob times its weight.

        Returns the loss, the gradient's norm before clipping, and what the passes met.
        """
        output = self.algorithm.loss(batch, self.settings)
        leaves = [batch.logp_NT if self.learner.token_level else batch.rewards_N]
        if batch.values_NT is not None:
            leaves.append(batch.values_NT)
        gradients = torch.autograd.grad(output.loss, leaves, materialize_grads=True)
        if weights_NT is not None:
            gradients = (gradients[0] * weights_NT, *gradients[1:])
        met = self.passes.backward(self.learner, padded, forward, gradients)
        return output, self._apply_gradients(), met

    def _apply_gradients(self) -> float:
        for weight, parameter in zip(self.weights, self.parameters, strict=True):
            # a process without rows still takes part in the sum
            gradient = sharding.share(torch.zeros_like(weight) if weight.grad is None else weight.grad)
            shared = self.accelerator.num_processes > 1 and not is_sharded(weight)  # those of shards are sums already
            weight.grad = None
            parameter.grad = self._sum(gradient) if shared else gradient
        norm = sharding.clip_gradients(
            self.weights, self.parameters, self.settings.optimizer.clip_norm, self.accelerator)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def _sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes."""
        found: Tensor = self.accelerator.reduce(tensor, reduction="sum")
        return found

    def _reference_logp(self, padded: Padded) -> Tensor | None:
        every = self.settings.kl_ref_every
        wanted = "ref" in self.needs or (every > 0 and self.step % every == 0)
        policy = self.reference
        if not wanted or policy is None:
            return None
        with policy.initial() if policy.adapted else contextlib.nullcontext():
            return self.passes.without_gradient(policy, padded).leaf

    def _per_token(self, rows: list[list[float]], padded: Padded) -> Tensor | None:
        """Logged numbers of each row's tokens, (N, T) with 0 on pads; None where nothing was logged."""
        if not any(rows):
            return None
        width = padded.mask_NT.shape[1]
        return torch.tensor([row + [0.0] * (width - len(row)) for row in rows], device=self.learner.device)
