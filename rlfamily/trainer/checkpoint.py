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

KEYS = {"model", "optimizer", "schedule", "source", "step", "rewards", "torch", "cuda", "python", "numpy", "extra"}


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


def read(path: Path, trainer: Trainer) -> dict[str, Any] | None:
    """What `save` wrote, tensors and plain data; None when there is no file, or one that cannot be read.

    Such a file (cut short, empty, garbage) is set aside as <name>.unreadable and named in the log: what it held is
    lost, the run is not. Collective: every process comes here.
    """
    try:
        # Mapped: of a large file, a process reads no more than it takes.
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=trainer.sharded)
    except FileNotFoundError:
        return None
    except OSError:
        raise
    except Exception as error:  # torch raises a dozen types over a broken file
        content, problem = None, f"{type(error).__name__}: {error}".splitlines()[0]
    else:
        problem = "it is no checkpoint"
    if isinstance(content, dict) and content.keys() >= KEYS:
        return content
    trainer.accelerator.wait_for_everyone()
    set_aside(path, problem, trainer)
    return None


def set_aside(path: Path, problem: str, trainer: Trainer) -> None:
    """Rename a checkpoint that is of no use, and say so in the log; the first process does."""
    if trainer.accelerator.is_main_process:
        aside = path.with_name(path.name + ".unreadable")
        os.replace(path, aside)
        trainer.accelerator.print(f"warning: {path} cannot be used ({problem}): set aside as {aside.name}, "
                                  "the run begins again")


def restore(content: dict[str, Any], trainer: Trainer) -> dict[str, Any]:
    """Bring the trainer to the state that `read` gave; returns what was saved as `extra`."""
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
