"""Real trainers over the small world, ready to step through, and the whole job as a child process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

import pytest
from small import World, place

from rlfamily import algorithms
from rlfamily.algorithms.settings import Kl, LeaveOneOutGuard
from rlfamily.config import algorithm_settings
from rlfamily.errors import UserError
from rlfamily.models import Finetuning
from rlfamily.trainer import jobs

KL = {"coef": 0.1, "form": "k1", "place": "reward"}
# Combinations worth a name; a method needs none here to be tested, see `alternatives`.
COMBINED: dict[str, tuple[str, dict[str, Any]]] = {
    "rloo, clipped, KL in the loss": ("rloo", {"ratio": "sequence", "kl": KL | {"form": "k3", "place": "loss"}}),
    "topr, tapered, per token": ("topr", {"weights": "tapered", "ratio": "token"}),
    "topr, running mean, length normalised": ("topr", {"baseline": "running_mean", "ratio": "length_norm"}),
    "oreo_online, step, direct": ("oreo_online", {"level": "step", "policy_loss": "direct"}),
}


def alternatives(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each setting of a method's own that has a closed set of values, at each value that is not the shipped one."""
    shipped = algorithm_settings(name)
    own = set(type(shipped).model_fields) - set(LeaveOneOutGuard.model_fields)
    for key in sorted(own):
        value = getattr(shipped, key)
        if isinstance(value, Kl):
            parts = value.model_dump() | {"coef": 0.1}
            choices = [parts | {"form": "k1", "place": "reward"}, parts | {"form": "k3", "place": "loss"}]
        elif isinstance(value, bool):
            choices = [not value]
        else:
            choices = [choice for choice in get_args(type(shipped).model_fields[key].annotation) if isinstance(choice, str)]
        for choice in choices:
            if choice != value and _valid(name, {key: choice}):
                text = f"{choice['form']} in the {choice['place']}" if isinstance(choice, dict) else str(choice)
                yield f"{name}, {key} {text}", {key: choice}


def _valid(name: str, changes: dict[str, Any]) -> bool:
    try:
        algorithm_settings(name, **changes)
    except (ValueError, UserError):
        return False
    return True


# Every method as shipped and some combinations; and with every alternative of each.
SHIPPED: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in algorithms.names()} | COMBINED
VARIANTS = SHIPPED | {variant: (name, changes) for name in algorithms.names() for variant, changes in alternatives(name)}


VARIED = {"reward": "random"}  # the small policy may fail everywhere, and equal rewards teach nothing
ROUNDING = 1e-4  # of log-probs in fp32, with and without a cache


def settings_of(name: str, **changes: Any) -> Any:
    """The shipped settings at a size and learning rate for a small model, with top-level changes."""
    shipped = algorithm_settings(name)
    optimizer = shipped.optimizer.model_dump() | {"lr": 1e-3} | changes.pop("optimizer", {})
    small = {"prompts": min(shipped.prompts, 1000), "batch_prompts": min(shipped.batch_prompts, 4)}
    return algorithm_settings(name, optimizer=optimizer, **small | changes)


def finetuning_of(world: World, finetune: str = "full") -> Finetuning:
    names = Finetuning.model_fields
    changes = {"finetune": finetune, "lr_multiplier": 1.0}
    return Finetuning.model_validate({name: getattr(world.finetuning, name) for name in names} | changes)


def train(here: Any, world: World, settings: Any, name: str, finetune: str = "full", pairs: Path | None = None,
          reward: Path | None = None, reference: Path | None = None, seed: int = 0, **rollout: Any) -> dict[str, Any]:
    """The job of a train stage; `rollout` are changes to what draws its responses."""
    drawn = world.config.rollout.model_copy(update=rollout) if algorithms.get(name).SOURCE == "rollouts" else None
    source = algorithms.get(name).SOURCE
    lesson = world.lesson(settings.prompts, demonstrations=source in ("demonstrations", "logged"))
    return jobs.train_policy(here, jobs.Inputs(world.data, world.base, pairs, reward, {}, reference), name, settings,
                             finetuning_of(world, finetune), lesson, drawn, seed)


def run_of(world: World, settings: Any, name: str, finetune: str = "full", **rollout: Any) -> Any:
    """The same as the config of a train stage."""
    from rlfamily.rollout.settings import Drawing
    from rlfamily.stages.kinds import train as kind

    source = algorithms.get(name).SOURCE
    drawn = Drawing(**{"engine": "torch", "importance_cap": None, **rollout}) if source == "rollouts" else None
    return kind.Config(algorithm=name, settings=settings, finetuning=finetuning_of(world, finetune), rollout=drawn, seed=0,
                       lesson=world.lesson(settings.prompts, demonstrations=source in ("demonstrations", "logged")))


def trainer_of(folder: Path, world: World, settings: Any, name: str, micro_tokens: int = 8192,
               hardware: Mapping[str, Any] = MappingProxyType({}), **options: Any) -> Any:
    """The trainer that the job builds, caught before it runs."""
    caught: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "fit", lambda here, trainer, config: caught.append(trainer) or {})
        train(place(folder, micro_tokens=micro_tokens, **hardware), world, settings, name, **options)
    return caught[0]


def watched(trainer: Any) -> list[Any]:
    """Every LossBatch that the loss is given, in order."""
    seen: list[Any] = []
    real = trainer.recipe.loss

    def loss(batch: Any) -> Any:
        seen.append(batch)
        return real(batch)

    trainer.recipe = replace(trainer.recipe, loss=loss)
    return seen


def job(folder: Path, world: World, settings: Any, name: str, die_at: int | None = None, **options: Any) -> None:
    """Body of a child process: train with a checkpoint at every step; kill itself after step `die_at`, uncommitted."""
    here = place(folder, checkpoint_seconds=0.0)

    def progress(step: int, total: int, note: str = "") -> None:
        if step == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    train(replace(here, progress=progress), world, settings, name, **options)


def write_logged(world: World, folder: Path) -> None:
    """logged_train.jsonl and logged_validation.jsonl: responses drawn by the base model, rewards made up."""
    from rlfamily.examples import read_examples
    from rlfamily.records import write_jsonl
    from rlfamily.rollout import SamplingParams
    from rlfamily.rollout.collect import decode
    from rlfamily.rollout.torch_engine import TorchEngine

    policy = world.policy()
    for split, count in (("train", 24), ("validation", 4)):
        examples = read_examples(world.data / f"{split}.jsonl")[:count]
        ids = [policy.tokenizer(example.prompt)["input_ids"] for example in examples]
        drawn = TorchEngine(policy, 100).generate(ids, SamplingParams(False, 1.0, 30), range(0, 4 * count, 4), copies=4)
        texts = decode(policy.tokenizer, [one.ids for one in drawn])
        write_jsonl(folder / f"logged_{split}.jsonl", [
            {"id": example.id, "prompt": example.prompt, "responses": texts[4 * n:4 * n + 1 + n % 4],
             "rewards": [float((3 * n + 5 * k) % 7) for k in range(1 + n % 4)]} for n, example in enumerate(examples)])
