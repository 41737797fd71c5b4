"""What a step reports, whatever the algorithm: rewards, lengths, entropy, norms, both KLs, seconds."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from torch import Tensor

from rlfamily import core
from rlfamily.algorithms import LossBatch, LossOutput
from rlfamily.models.batching import Forward
from rlfamily.trainer.sources import TrainBatch


def step_metrics(
    batch: TrainBatch, behaviour_logp_NT: Tensor, forward: Forward, output: LossOutput, norm: float
) -> dict[str, float]:
    """Numbers of one step; a number that does not apply (rewards of demonstrations) is left out."""
    lengths = [len(ids) for ids in batch.rows.completions]
    metrics = {
        "loss": float(output.loss.detach()), **output.metrics, "grad_norm": norm,
        "entropy": float(forward.entropy_N.mean()), "length": fmean(lengths),
        "rows": len(lengths), "tokens": sum(lengths),
    }
    if batch.rewards:
        metrics |= {
            "reward": fmean(batch.rewards), "truncated": fmean(batch.truncated),
            **{f"mean_{name}": fmean(parts[name] for parts in batch.parts) for name in batch.parts[0]},
        }
    if batch.sampler_logp:
        metrics["sampler_gap"] = _sampler_gap(batch, behaviour_logp_NT)
    return metrics


def reference_metrics(batch: LossBatch, ref_logp_NT: Tensor | None) -> dict[str, float]:
    """KL to the initial policy (k1 and k3, per token), when a reference forward was made."""
    if ref_logp_NT is None:
        return {}
    return core.to_floats(core.kl_metrics(batch.logp_NT, batch.mask_NT, None, ref_logp_NT, None))


def samples(batch: TrainBatch, step: int) -> list[dict[str, Any]]:
    """The first group of a step's rollouts, as people want to read them."""
    rows = zip(batch.prompt_texts, batch.texts, batch.rewards, batch.parts, strict=True)
    return [{"step": step, "prompt": prompt, "response": text, "reward": reward, **parts}
            for prompt, text, reward, parts in list(rows)[:batch.group_size]]


def _sampler_gap(batch: TrainBatch, behaviour_logp_NT: Tensor) -> float:
    """Largest difference between the sampler's log-prob of a token and the trainer's, at the same weights."""
    gaps = [abs(ours - theirs) for row, sampled in zip(behaviour_logp_NT.tolist(), batch.sampler_logp, strict=True)
            for ours, theirs in zip(row, sampled, strict=False)]
    return max(gaps, default=0.0)
