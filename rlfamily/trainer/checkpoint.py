"""One file from which a run goes on as if it had never stopped."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy
import torch

from rlfamily.models import sharding
from rlfamily.models.sharded import kept
from rlfamily.trainer.loop import Trainer


def save(path: Path, trainer: Trainer, extra: dict[str, Any]) -> None:
    """Write weights, optimiser, schedule, data state and every random stream; the old file stays until it is done.

    One file, whatever the processes and whether they shard: any other arrangement can go on from it. Collective when
    sharded; the first process writes.
    """
    name, keys, *rest = numpy.random.get_state()
    content = {
        "model": {name: kept(weight.detach()) for name, weight in trainer.learner.trainable().items()},
        "optimizer": sharding.whole_state(trainer.optimizer.state_dict(), trainer.weights),
        "schedule": trainer.schedule.state_dict(),
        "source": trainer.source.state(),
        "step": trainer.step,
        "rewards": [trainer.reward_sum, trainer.reward_count],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": random.getstate(),
        "numpy": [name, numpy.asarray(keys).tolist(), *rest],
        "extra": extra,
    }
    if not trainer.accelerator.is_main_process:
        return
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def restore(path: Path, trainer: Trainer) -> dict[str, Any]:
    """Bring the trainer to the state of the file; returns what was saved as `extra`. Loads tensors and plain data."""
    # Mapped: of a large file, a process reads no more than it takes.
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=trainer.sharded)
    weights = trainer.learner.trainable()
    with torch.no_grad():
        for name, value in content["model"].items():
            sharding.share(weights[name]).copy_(sharding.share_of(value, weights[name]))
    trainer.optimizer.load_state_dict(sharding.state_share(content["optimizer"], trainer.weights))
    trainer.schedule.load_state_dict(content["schedule"])
    trainer.source.restore(content["source"])
    trainer.step = content["step"]
    trainer.reward_sum, trainer.reward_count = content["rewards"]
    torch.set_rng_state(content["torch"])
    if content["cuda"]:
        torch.cuda.set_rng_state_all(content["cuda"])
    version, internal, gauss = content["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = content["numpy"]
    numpy.random.set_state((name, numpy.array(keys, dtype=numpy.uint32), *rest))
    extra: dict[str, Any] = content["extra"]
    return extra
