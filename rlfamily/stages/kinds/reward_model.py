"""Reward-model stage: Bradley-Terry training on preference pairs (report Eq. 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlfamily.stages.worker import StageContext

VERSION = "1"


def run(context: StageContext) -> dict[str, Any]:
    """Config: settings, finetuning, task, seed; inputs: data, policy (the backbone), pairs."""
    from rlfamily.models import Finetuning
    from rlfamily.settings import RewardModelSettings
    from rlfamily.stages.placing import place
    from rlfamily.trainer import preference

    config, inputs = context.config, context.inputs
    return preference.train_on_own_pairs(
        place(context), inputs["data"], inputs["policy"] / "model", inputs["pairs"],
        RewardModelSettings.model_validate(config["settings"]), Finetuning.model_validate(config["finetuning"]),
        config["task"]["max_tokens_demonstration"], config["seed"])
