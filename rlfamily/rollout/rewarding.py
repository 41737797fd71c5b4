"""The reward of a stage: the task's own, loaded with the models it reads."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from rlfamily import rewards, tasks
from rlfamily.place import Place
from rlfamily.rewards import AnyReward, Reward
from rlfamily.rollout.engines import open_classifier


def task_reward(
    place: Place, task: str, config: AnyReward, models: Mapping[str, Path], device: torch.device
) -> Reward:
    """The reward `config` over the check of `task`; `models` holds the artifact of each model it reads, by name.

    Says in the log and in the place's notes where vLLM was no help. Raises UserError when a model cannot be loaded.
    """
    def note(name: str, text: str) -> None:
        sys.stderr.write(f"reward {name}: {text}\n")  # the stage's log
        place.notes[f"reward_{name}"] = text

    vllm = rewards.ClassifierEngine(open_classifier(place), note)
    folders = {name: folder / "model" for name, folder in models.items()}
    return rewards.load(config, tasks.get(task).score, folders, device, place.hardware.micro_batch, vllm)
