"""Score stage: greedy and sampled responses to held-out prompts, with the task's reward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlfamily.stages.worker import StageContext

VERSION = "2"


def run(context: StageContext) -> dict[str, Any]:
    """Config: task, finetuning; inputs: data, policy, the reward's models. Writes scores.jsonl, a line a response."""
    from rlfamily.stages.placing import place, reward_models
    from rlfamily.trainer import evaluation

    return evaluation.write_scores(place(context), context.inputs["data"], context.inputs["policy"] / "model",
                                   reward_models(context), context.config)
