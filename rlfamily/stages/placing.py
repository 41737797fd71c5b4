"""From a stage's context to the place a job runs at; relaunching over several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlfamily.errors import UserError

if TYPE_CHECKING:
    from rlfamily.stages.worker import StageContext
    from rlfamily.trainer.jobs import Place

REWARD_INPUT = "reward_"  # a stage's input named reward_<name> is the model <name> of the task's reward
INSIDE = "RLFAMILY_LAUNCHED"
REFUSAL = "refusal.txt"


def place(context: StageContext) -> Place:
    """Where the job works and how: folders, hardware, progress."""
    from rlfamily.trainer.jobs import Place

    return Place(context.key, context.label, context.work, context.out, context.hardware, context.progress)


def reward_models(context: StageContext) -> dict[str, Path]:
    """Folder of each model that the task's reward reads, by its name in the reward's settings."""
    return {name.removeprefix(REWARD_INPUT): folder / "model" for name, folder in context.inputs.items()
            if name.startswith(REWARD_INPUT)}


def relaunched(context: StageContext) -> dict[str, Any] | None:
    """Run this stage again as hardware.processes processes that accelerate joins; None when already inside.

    torchrun starts them: `accelerate launch` would start a single one on CPU.
    Raises UserError: what a process refused, or that the launch failed; the stage's log has the processes' own output.
    """
    if os.environ.get(INSIDE):
        return None
    content = {"key": context.key, "label": context.label, "config": context.config, "hardware": context.hardware,
               "inputs": {name: str(path) for name, path in context.inputs.items()},
               "work": str(context.work), "out": str(context.out)}
    request, answer, refusal = (context.work / name for name in ("launch.json", "totals.json", REFUSAL))
    request.write_text(json.dumps(content))
    refusal.unlink(missing_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node",
               str(context.hardware["processes"]), "-m", "rlfamily.stages.launched", str(request)]
    finished = subprocess.run(command, env={**os.environ, INSIDE: "1"}, check=False)
    if finished.returncode and refusal.exists():
        raise UserError(refusal.read_text())
    if finished.returncode:
        raise UserError(f"train: {context.hardware['processes']} processes failed with code {finished.returncode}: "
                        f"see {context.work / 'log.txt'}")
    totals: dict[str, Any] = json.loads(answer.read_text())
    return totals
