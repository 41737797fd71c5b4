"""Pairs stage: on-policy preference pairs, labelled by the task's reward, ties dropped (report sec. 4, DPO)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlfamily.stages.worker import StageContext

VERSION = "2"


def run(context: StageContext) -> dict[str, Any]:
    """Config: prompts, temperature, finetuning, task, seed; inputs: data, policy. Writes pairs.jsonl."""
    from rlfamily.stages.placing import place, reward_models
    from rlfamily.trainer import evaluation

    return evaluation.write_pairs(place(context), context.inputs["data"], context.inputs["policy"] / "model",
                                  reward_models(context), context.config)
