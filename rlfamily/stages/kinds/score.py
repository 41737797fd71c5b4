"""Score stage: greedy and sampled responses to held-out puzzles, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlfamily.stages.worker import StageContext

VERSION = "1"


def run(context: StageContext) -> dict[str, Any]:
    """Config: task, finetuning; inputs: data, policy. Writes scores.jsonl, one line a response."""
    from rlfamily.stages.placing import place
    from rlfamily.trainer import evaluation

    return evaluation.write_scores(place(context), context.inputs["data"], context.inputs["policy"] / "model",
                                   context.config)
