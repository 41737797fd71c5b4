"""What a step reports, whatever the algorithm: rewards, lengths, entropy, norms, KLs, the gap to the engine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from torch import Tensor

from rlfamily import core
from rlfamily.algorithms import LossBatch, LossOutput
from rlfamily.models.batching import Forward
from rlfamily.rollout.settings import Drawing
from rlfamily.trainer.recipe import Recipe, Seen
from rlfamily.trainer.sources import TrainBatch


def step_metrics(batch: TrainBatch, forward: Forward, output: LossOutput, norm: float) -> dict[str, float]:
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
    return metrics


def selection_metrics(batch: TrainBatch, seen: Seen, recipe: Recipe) -> dict[str, float]:
    """What shaping made of the rewards, and the share of the groups drawn that were kept; only where either is used."""
    shaped = {"shaped_reward": float(seen.rewards_N.mean())} if recipe.shaping and isinstance(seen, LossBatch) else {}
    return shaped | ({"kept": batch.kept} if recipe.selects else {})


def engine_gap(
    engine_logp_NT: Tensor | None, old_logp_NT: Tensor | None, mask_NT: Tensor, rollout: Drawing | None
) -> tuple[Tensor | None, dict[str, float]]:
    """Weights (N, T) that correct for the engine that drew the rows, None for none; and how far it is from the trainer.

    No numbers where there are no rows, or where they come without the log-probs of an engine.
    """
    if engine_logp_NT is None or old_logp_NT is None or not len(engine_logp_NT):
        return None, {}
    mask_NT = mask_NT.to(old_logp_NT.device)
    found = core.mismatch_metrics(engine_logp_NT, old_logp_NT, mask_NT)
    cap = rollout.importance_cap if rollout else None
    if cap is None:
        return None, core.to_floats(found)
    weights_NT = core.importance_weights(engine_logp_NT, old_logp_NT, mask_NT, cap)
    corrected = core.importance_metrics(engine_logp_NT, old_logp_NT, mask_NT, cap)
    return weights_NT, core.to_floats(found) | core.to_floats(corrected)


def largest_mismatch(rows: Sequence[dict[str, float]]) -> dict[str, Any]:
    """For a run's totals: the largest `mismatch_kl` in nats a token, and its step.

    Empty where no step has one. A number that is not finite counts as the largest, and is left out (None).
    """
    measured = [row for row in rows if "mismatch_kl" in row]
    if not measured:
        return {}
    worst = max(measured, key=lambda row: row["mismatch_kl"] if math.isfinite(row["mismatch_kl"]) else math.inf)
    kl = worst["mismatch_kl"]
    return {"mismatch": {"kl": kl if math.isfinite(kl) else None, "step": worst["step"]}}


def reference_metrics(batch: Seen, forward: Forward, ref_logp_NT: Tensor | None) -> dict[str, float]:
    """KL of the forward's policy to the initial one (k1 and k3, per token), when a reference forward was made."""
    if ref_logp_NT is None or forward.logp_NT is None or not isinstance(batch, LossBatch):
        return {}
    return core.to_floats(core.kl_metrics(forward.logp_NT, batch.mask_NT, None, ref_logp_NT, None))


def samples(batch: TrainBatch, step: int) -> list[dict[str, Any]]:
    """The first group of a step's rollouts, as people want to read them; nothing of rows that came without texts."""
    if not batch.texts:
        return []
    rows = zip(batch.prompt_texts, batch.texts, batch.rewards, batch.parts, strict=True)
    size = batch.group_size if batch.prompt_index_N is None else int((batch.prompt_index_N == 0).sum())
    return [{"step": step, "prompt": prompt, "response": text, "reward": reward, **parts}
            for prompt, text, reward, parts in list(rows)[:size]]

