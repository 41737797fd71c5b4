"""The training loop: a generator of step records, blind to what it trains and to the method.

The loss is differentiated with respect to the leaves of the whole batch (log-probs, values, scores), and those
gradients are then pushed through the model pass by pass, process by process. Any loss, whatever it normalises over,
therefore gives the same update however the rows are split, and however the weights are sharded. Rows just drawn from
the very weights need no pass to know their log-probs: the sampler has them, so that each row is passed once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor

from rlfamily import core
from rlfamily.algorithms import LossBatch, LossOutput
from rlfamily.models import sharding
from rlfamily.models.batching import Forward, RowTensors, pad
from rlfamily.models.policy import Policy
from rlfamily.models.sharded import is_sharded
from rlfamily.rewards.bradley_terry import ScoreBatch
from rlfamily.rollout.clock import Clock
from rlfamily.rollout.settings import Drawing
from rlfamily.rollout.steps import step_ends
from rlfamily.shaping import shaped
from rlfamily.streams import loss_seed
from rlfamily.trainer.learner import Learner
from rlfamily.trainer.metrics import engine_gap, reference_metrics, samples, selection_metrics, step_metrics
from rlfamily.trainer.optimization import build_optimizer, build_schedule
from rlfamily.trainer.passes import Met, Passes
from rlfamily.trainer.recipe import Recipe, Seen
from rlfamily.trainer.sources import Source, TrainBatch
from rlfamily.values import ValueBatch

VALUES: dict[str, Literal["token", "prompt"]] = {"value": "token", "prompt_value": "prompt"}
"""What a loss needs of a critic, and what the critic is asked about."""


@dataclass(frozen=True)
class StepRecord:
    """One step: deterministic `metrics`, `timings` (seconds, and rows passed through a network), `samples` it drew."""

    step: int
    metrics: dict[str, float]
    timings: dict[str, float]
    samples: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Trainer:
    """Everything a run needs, already built. `reference` is the frozen initial policy, None when nobody asks.

    `temperature` and `min_new_tokens` are those that the rows were drawn with; `seed` fixes what chance a loss uses.
    `rollout` says what drew them and how its disagreement is dealt with; None for rows that are not drawn here.
    `whole` is False when they were drawn from the likeliest tokens only: the sampler's log-probs are others then.
    """

    learner: Learner
    reference: Policy | None
    source: Source
    recipe: Recipe
    temperature: float
    micro_tokens: int
    accelerator: Accelerator
    seed: int
    min_new_tokens: int
    rollout: Drawing | None = None
    whole: bool = True

    def __post_init__(self) -> None:
        for of in VALUES.keys() & self.recipe.needs:
            assert isinstance(self.learner, Policy)
            self.learner.add_value_head(VALUES[of], self.recipe.critic.apart, self.recipe.critic.width, self.seed)
        self.weights = list(self.learner.trainable().values())
        self.parameters = [sharding.share(weight) for weight in self.weights]
        optimizer, updates = self.recipe.optimizer, self.source.total_steps * self.recipe.inner_updates
        self.optimizer = build_optimizer(self.parameters, optimizer, self.recipe.lr_multiplier)
        self.schedule = build_schedule(self.optimizer, optimizer, updates)
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
        rows = replace(pad(batch.rows, self.learner.pad_id), min_new_tokens=self.min_new_tokens)
        other_N = self._other_rows(batch)
        other = None if other_N is None else rows.answered_by(other_N)
        width = rows.mask_NT.shape[1]
        known_NT = self._per_token(batch.ref_logp, width)
        references = self._reference_logp(rows) if known_NT is None else known_NT, self._reference_logp(other)
        drawn_NT, logged_NT = self._per_token(batch.sampler_logp, width), self._per_token(batch.old_logp, width)
        forward = self._forward(rows, other, self._as_drawn(batch, drawn_NT))
        # Unless logged before, the behaviour policy is the one of this moment: its log-probs are the first forward's.
        old_logp_NT = _detached(forward.logp_NT) if logged_NT is None else logged_NT
        weights_NT, found = engine_gap(drawn_NT, old_logp_NT, rows.mask_NT, self.rollout)
        first = self._loss_batch(batch, rows, forward, old_logp_NT, references, other_N)
        clock.lap("seconds_forward")
        lr = float(self.schedule.get_last_lr()[0])
        for update in range(self.recipe.inner_updates):
            forward = forward if update == 0 else self._forward(rows, other)
            output, norm, met = self._update(first, update, rows, other, forward, weights_NT)
            if drawn_NT is not None and forward.logp_NT is drawn_NT:
                # only the rows that were passed can tell how far the sampler was off
                _, found = engine_gap(drawn_NT[met.rows_N], met.leaves["logp_NT"], rows.mask_NT[met.rows_N.cpu()],
                                      self.rollout)
        clock.lap("seconds_update")
        metrics = step_metrics(batch, forward, output, norm) | found | reference_metrics(first, forward, references[0])
        metrics |= selection_metrics(batch, first, self.recipe)
        metrics |= {"step": self.step, "epoch": self.step // self.source.steps_per_epoch, "progress": self.progress,
                    "lr": lr}
        if old_logp_NT is not None:
            self.source.log_behaviour(self.step, batch, old_logp_NT)
        self.reward_sum += sum(batch.rewards)
        self.reward_count += len(batch.rewards)
        self.step += 1
        return StepRecord(self.step - 1, metrics, clock.totals() | {"forwards": self.passes.taken_forwards()},
                          samples(batch, self.step - 1))

    def _other_rows(self, batch: TrainBatch) -> Tensor | None:
        """The row whose completion each prompt meets as mismatched; None where nobody asks, or there is one prompt."""
        if "mismatched" not in self.recipe.needs:
            return None
        index_N = batch.prompt_index_N
        if index_N is None:
            index_N = torch.arange(len(batch.rows)) // batch.group_size
        return rows_of_next_prompts(index_N) if index_N.any() else None

    def _forward(self, rows: RowTensors, other: RowTensors | None, known: Forward | None = None) -> Forward:
        """What the learner says of the rows (`known`, where that is there) and of the mismatched ones."""
        forward = known or self.passes.forward(self.learner, rows)
        if other is None:
            return forward
        return forward._replace(mismatched_logp_NT=self.passes.forward(self.learner, other).logp_NT)

    def _loss_batch(
        self, batch: TrainBatch, rows: RowTensors, forward: Forward, old_logp_NT: Tensor | None,
        references: tuple[Tensor | None, Tensor | None], other_N: Tensor | None,
    ) -> Seen:
        """What the loss sees, of which an update replaces leaves and chance; of the rest only what NEEDS names."""
        if forward.values_NS is not None:
            mask_NS = core.states_of(rows.mask_NT).to(self.learner.device)
            return ValueBatch(forward.values_NS.detach(), mask_NS, mask_NS.new_tensor(batch.rewards),
                              teacher_NS=self._per_token(batch.teacher_values, mask_NS.shape[1]))
        if forward.logp_NT is None:
            return ScoreBatch(**forward.leaves())
        needs, mask_NT = self.recipe.needs, rows.mask_NT.to(self.learner.device)
        if self.recipe.mask_truncated and batch.truncated:
            mask_NT = mask_NT * ~torch.tensor(batch.truncated, device=mask_NT.device).unsqueeze(1)
        ref_logp_NT, other_ref_logp_NT = references if "ref" in needs else (None, None)
        rewards_N = self._shaped(batch, torch.tensor(batch.rewards or [0.0] * len(batch.rows), device=mask_NT.device))
        return LossBatch(
            logp_NT=forward.logp_NT.detach(), mask_NT=mask_NT, rewards_N=rewards_N, group_size=batch.group_size,
            prompt_index_N=batch.prompt_index_N, old_logp_NT=old_logp_NT if "old" in needs else None,
            ref_logp_NT=ref_logp_NT, old_values_NT=_detached(forward.values_NT), step_ends_NS=self._step_ends(batch),
            progress=self.progress, running_reward=self.reward_sum / max(1, self.reward_count),
            mismatched_mask_NT=None if other_N is None else mask_NT[other_N], mismatched_ref_logp_NT=other_ref_logp_NT,
        )

    def _shaped(self, batch: TrainBatch, rewards_N: Tensor) -> Tensor:
        """The rewards that the loss sees; records, samples and the running mean keep those that were given."""
        if not self.recipe.shaping:
            return rewards_N
        parts = {name: rewards_N.new_tensor([one[name] for one in batch.parts]) for name in batch.parts[0]}
        lengths_N = torch.tensor([len(ids) for ids in batch.rows.completions], device=rewards_N.device)
        return shaped(self.recipe.shaping, rewards_N, parts, lengths_N, batch.group_size, self.progress)

    def _generator(self, update: int) -> torch.Generator:
        """A stream for this update alone, so that a resumed run draws what an unbroken one does; on the CPU."""
        return torch.Generator().manual_seed(loss_seed(self.seed, self.step, update))

    def _step_ends(self, batch: TrainBatch) -> Tensor | None:
        """step_ends_NS of the responses as generated; a row with fewer steps repeats its length."""
        if "steps" not in self.recipe.needs:
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
        exact = (self.whole and self.rollout is not None and self.rollout.engine == "torch"
                 and self.rollout.importance_cap is None and self.accelerator.num_processes == 1
                 and not VALUES.keys() & self.recipe.needs)
        if not exact or drawn_NT is None or any(batch.old_logp) or self.learner.dtype != "fp32":
            return None
        return Forward(torch.tensor(batch.sampler_entropy), logp_NT=drawn_NT)

    def _update(
        self, first: Seen, update: int, rows: RowTensors, other: RowTensors | None,
        forward: Forward, weights_NT: Tensor | None,
    ) -> tuple[LossOutput, float, Met]:
        """One optimiser step, the gradient of each log-prob times its weight.

        Returns the loss, the gradient's norm before clipping, and what the passes met, of mismatched rows apart.
        """
        leaves = {name: leaf.detach().requires_grad_() for name, leaf in forward.leaves().items()}
        chance: dict[str, Any] = {"generator": self._generator(update)} if "generator" in self.recipe.needs else {}
        output = self.recipe.loss(replace(first, **(chance | leaves)))
        found = torch.autograd.grad(output.loss, list(leaves.values()), materialize_grads=True)
        gradients = dict(zip(leaves, found, strict=True))
        if weights_NT is not None:
            gradients["logp_NT"] = gradients["logp_NT"] * weights_NT
        elsewhere = {"logp_NT": gradients.pop("mismatched_logp_NT")} if other is not None else {}
        met = self.passes.backward(self.learner, rows, forward, gradients)
        if other is not None and elsewhere["logp_NT"].any():  # most losses take them without gradient
            apart = Forward(forward.entropy_N, logp_NT=forward.mismatched_logp_NT)
            self.passes.backward(self.learner, other, apart, elsewhere)
        return output, self._apply_gradients(), met

    def _apply_gradients(self) -> float:
        for weight, parameter in zip(self.weights, self.parameters, strict=True):
            # a process without rows still takes part in the sum
            gradient = sharding.share(torch.zeros_like(weight) if weight.grad is None else weight.grad)
            shared = self.accelerator.num_processes > 1 and not is_sharded(weight)  # those of shards are sums already
            weight.grad = None
            parameter.grad = self._sum(gradient) if shared else gradient
        norm = sharding.clip_gradients(
            self.weights, self.parameters, self.recipe.optimizer.clip_norm, self.accelerator)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def _sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes."""
        found: Tensor = self.accelerator.reduce(tensor, reduction="sum")
        return found

    def _reference_logp(self, rows: RowTensors | None) -> Tensor | None:
        every, policy = self.recipe.kl_ref_every, self.reference
        wanted = "ref" in self.recipe.needs or (every > 0 and self.step % every == 0)
        if not wanted or policy is None or rows is None:
            return None
        with policy.initial() if policy.adapted else contextlib.nullcontext():
            return self.passes.without_gradient(policy, rows).logp_NT

    def _per_token(self, numbers: list[list[float]], width: int) -> Tensor | None:
        """Known numbers of each row's tokens, or states, (N, width) with 0 on pads; None where nothing is known."""
        if not any(numbers):
            return None
        return torch.tensor([row + [0.0] * (width - len(row)) for row in numbers], device=self.learner.device)


def rows_of_next_prompts(index_N: Tensor) -> Tensor:
    """For each row, a row of the next prompt (of the first one, for the last); `index_N` is 0, 1, 2, ... row by row.

    The j-th row of a prompt has the j-th of the next, and again from the first where that has fewer.
    """
    counts_B = index_N.bincount()
    starts_B = counts_B.cumsum(0) - counts_B
    next_N = (index_N + 1) % len(counts_B)
    return starts_B[next_N] + (torch.arange(len(index_N)) - starts_B[index_N]) % counts_B[next_N]


def _detached(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()
