"""Base stage: a from-scratch stand-in model, pretrained on the task's corpus until it is worth reinforcing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlfamily.stages.worker import StageContext

VERSION = "2"


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
    gate = task["pretrain"]["gate"]
    value = evaluation.gate_value(here, context.inputs["data"], context.out / "model", model, task)
    if value < gate["least"]:
        raise UserError(f"base model: mean '{gate['part']}' of its sampled validation responses is {value:.3f}, less "
                        f"than task.pretrain.gate.least={gate['least']}: train longer (task.pretrain.epochs)")
    return {**totals, f"sampled_{gate['part']}": value}
