"""Real trainers over the small world, ready to step through, and the whole job as a child process."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from small import World, place

from rlfamily import algorithms
from rlfamily.config import algorithm_settings
from rlfamily.models import Finetuning
from rlfamily.trainer import jobs

# Every method as shipped, and settings that use what the shipped ones leave out.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in algorithms.names()} | {
    "rloo, clipped, KL in the loss": ("rloo", {"ratio": "sequence", "kl": {"coef": 0.1, "form": "k3", "place": "loss"}}),
    "rloo, KL in the reward": ("rloo", {"kl": {"coef": 0.1, "form": "k1", "place": "reward"}}),
    "topr, tapered, per token": ("topr", {"weights": "tapered", "ratio": "token"}),
    "topr, running mean, length normalised": ("topr", {"baseline": "running_mean", "ratio": "length_norm"}),
}


def settings_of(name: str, **changes: Any) -> Any:
    """The shipped settings at a learning rate that a small model feels, with top-level changes."""
    optimizer = algorithm_settings(name).optimizer.model_dump() | {"lr": 1e-3} | changes.pop("optimizer", {})
    return algorithm_settings(name, optimizer=optimizer, **changes)


def finetuning_of(world: World, finetune: str = "full") -> Finetuning:
    names = Finetuning.model_fields
    changes = {"finetune": finetune, "lr_multiplier": 1.0}
    return Finetuning.model_validate({name: getattr(world.finetuning, name) for name in names} | changes)


def train(here: Any, world: World, settings: Any, name: str, finetune: str = "full", pairs: Path | None = None,
          reward: Path | None = None, seed: int = 0) -> dict[str, Any]:
    """The job of a train stage."""
    return jobs.train_policy(here, jobs.Inputs(world.data, world.base, pairs, reward), name, settings,
                             finetuning_of(world, finetune), world.limits, seed)


def trainer_of(folder: Path, world: World, settings: Any, name: str, micro_batch: int = 512, **options: Any) -> Any:
    """The trainer that the job builds, caught before it runs."""
    caught = []

    class Catching(jobs.Place):
        def train(self, trainer: Any, config: dict[str, Any]) -> dict[str, Any]:
            caught.append(trainer)
            return {}

    train(Catching(**vars(place(folder, micro_batch=micro_batch))), world, settings, name, **options)
    return caught[0]


def job(folder: Path, world: World, settings: Any, name: str, die_at: int | None = None, **options: Any) -> None:
    """Body of a child process: train with a checkpoint at every step; kill itself after step `die_at`, uncommitted."""
    here = place(folder, checkpoint_seconds=0.0)

    def progress(step: int, total: int, note: str = "") -> None:
        if step == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    train(jobs.Place(**vars(here) | {"progress": progress}), world, settings, name, **options)
