"""Preference-model stage: a stand-in's reward model, trained from scratch on the task's own preferences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlfamily.stages.worker import StageContext

VERSION = "1"


def run(context: StageContext) -> dict[str, Any]:
    """Config: a `TrainedSource` and task; inputs: data. Writes model/. Raises UserError below min_accuracy."""
    from rlfamily.stages.placing import place
    from rlfamily.trainer import preference

    return preference.train_from_scratch(place(context), context.inputs["data"], context.config)
