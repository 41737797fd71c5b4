"""Data stage: the task's puzzles, demonstrations and corpus, as files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rlfamily import tasks

if TYPE_CHECKING:
    from rlfamily.stages.worker import StageContext

VERSION = "1"


def run(context: StageContext) -> dict[str, Any]:
    """Write the splits; config is the task's own settings (`TaskConfig.data_settings`)."""
    return tasks.get(context.config["kind"]).build(context.config, context.out)
