"""Score stage: held-out responses measured by the task's reward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlfamily import rewards, tasks
from rlfamily.place import Place
from rlfamily.records import Layout, read_jsonl
from rlfamily.settings import Strict
from rlfamily.stages.kind import Versioned

VERSION = "3"
WRITES = {"scores.jsonl": "a response with its reward, the reward's parts and what the task tells of it"}


class Config(Strict):
    """The reward, and the task whose check stands beside it."""

    task: str
    reward: rewards.AnyReward


@dataclass(frozen=True)
class Inputs:
    """The task's files, the responses, and the models that the reward reads, by name."""

    data: Path
    responses: Path
    rewards: Mapping[str, Path] = field(default_factory=dict)


def uses(config: Config) -> Iterator[Versioned]:
    """The reward and the task's check."""
    yield rewards.get(config.reward.kind)
    yield tasks.get(config.task)


def run(place: Place, config: Config, inputs: Inputs) -> dict[str, Any]:
    """Score every response."""
    from rlfamily.evaluation.score import write_scores

    summary = write_scores(place, inputs.data, inputs.responses, inputs.rewards, config.task, config.reward)
    if place.hardware.wandb != "off":
        _mirror(place, config, inputs)
    return summary


def _mirror(place: Place, config: Config, inputs: Inputs) -> None:
    """The scores' means, beside the curves of the run whose policy gave the responses; nothing was run for a base."""
    from rlfamily.evaluation.score import means
    from rlfamily.trainer.tracking import Mirrored, mirror_scores

    layout = Layout(place.shared)
    policy = str(layout.manifest(inputs.responses.name).inputs["policy"])
    run = layout.manifest(policy)
    if run.kind == "train":
        mirror_scores(place.hardware.wandb, Mirrored(Path(place.hardware.wandb_folder), policy, run.label, {}, {}),
                      list(read_jsonl(layout.object(policy) / "metrics.jsonl")),
                      means(read_jsonl(place.out / "scores.jsonl"), config.task))
