"""Base stage: a from-scratch stand-in model, pretrained on the task's corpus until it is worth reinforcing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlfamily.stages.worker import StageContext

VERSION = "1"


def run(context: StageContext) -> dict[str, Any]:
    """Config: model, settings (of the supervised loss), task. Raises UserError when the model stays below its gate."""
    from rlfamily import algorithms
    from rlfamily.errors import UserError
    from rlfamily.models import ScratchModel
    from rlfamily.stages.placing import place
    from rlfamily.trainer import evaluation, jobs

    config, task = context.config, context.config["task"]
    model = ScratchModel.model_validate(config["model"])
    settings = algorithms.get("sft").Config.model_validate(config["settings"])
    here = place(context)
    totals = jobs.pretrain(here, context.inputs["data"], model, settings, task["max_tokens_demonstration"])
    rate = evaluation.valid_rate(here, context.inputs["data"], context.out / "model", model, task)
    if rate < model.pretrain.min_valid_rate:
        raise UserError(f"base model: solves {rate:.3f} of the validation puzzles, less than model.pretrain."
                        f"min_valid_rate={model.pretrain.min_valid_rate}: train longer (model.pretrain.epochs)")
    return {**totals, "sampled_valid_rate": rate}
