"""CLIP stage: a stand-in's small CLIP, trained from scratch on the task's own pictures and captions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlfamily.stages.worker import StageContext

VERSION = "1"


def run(context: StageContext) -> dict[str, Any]:
    """Config: a `ContrastiveSource`; inputs: data. Writes model/. Raises UserError below min_recall."""
    from rlfamily.rewards import ContrastiveSource
    from rlfamily.stages.placing import place
    from rlfamily.trainer import contrastive

    source = ContrastiveSource.model_validate({"kind": "contrastive", **context.config})
    return contrastive.train(place(context), context.inputs["data"], source)
