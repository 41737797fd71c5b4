"""Log-probs stage: mean token log-prob of each demonstration under a policy, train and validation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlfamily.stages.worker import StageContext

VERSION = "2"


def run(context: StageContext) -> dict[str, Any]:
    """Config: task, finetuning; inputs: data, policy. Writes logprobs.jsonl, one line a demonstration."""
    from rlfamily.stages.placing import place
    from rlfamily.trainer import evaluation

    return evaluation.write_logprobs(place(context), context.inputs["data"], context.inputs["policy"] / "model",
                                     context.config)
