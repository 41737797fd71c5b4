"""Train stage: one run of one algorithm at one seed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlfamily.stages.worker import StageContext

VERSION = "2"


def run(context: StageContext) -> dict[str, Any]:
    """Train. Inputs: data, policy and, where used, pairs and reward, and the task's reward models.

    Config: algorithm, settings, finetuning, task, rollout (null: draws no responses), seed.
    """
    from rlfamily import algorithms
    from rlfamily.models import Finetuning
    from rlfamily.rollout.settings import Drawing
    from rlfamily.stages.placing import place, relaunched, reward_models
    from rlfamily.trainer import jobs

    if context.hardware["processes"] > 1:
        totals = relaunched(context)
        if totals is not None:
            return totals
    config, folders = context.config, context.inputs
    inputs = jobs.Inputs(folders["data"], folders["policy"] / "model", folders.get("pairs"),
                         folders["reward"] / "model" if "reward" in folders else None, reward_models(context))
    settings = algorithms.get(config["algorithm"]).Config.model_validate(config["settings"])
    return jobs.train_policy(place(context), inputs, config["algorithm"], settings,
                             Finetuning.model_validate(config["finetuning"]), config["task"],
                             Drawing.model_validate(config["rollout"]) if config["rollout"] else None, config["seed"])
