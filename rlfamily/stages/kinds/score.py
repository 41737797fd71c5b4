"""Score stage: held-out responses measured by the task's reward and by its text metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlfamily import metrics, rewards, tasks
from rlfamily.place import Place
from rlfamily.records import Layout, read_jsonl
from rlfamily.settings import Strict
from rlfamily.stages.kind import Versioned

VERSION = "3"
WRITES = {"scores.jsonl": "a response with its reward, the reward's parts, what the task tells of it, and text metrics"}


class Config(Strict):
    """The reward, the task whose check stands beside it, and text metrics by name."""

    task: str
    reward: rewards.AnyReward
    metrics: dict[str, metrics.AnyMetric]


@dataclass(frozen=True)
class Inputs:
    """The task's files, the responses, and the models that reward and metrics read, by name."""

    data: Path
    responses: Path
    rewards: Mapping[str, Path] = field(default_factory=dict)
    metrics: Mapping[str, Path] = field(default_factory=dict)


def uses(config: Config) -> Iterator[Versioned]:
    """The reward, the task's check, and the metrics."""
    yield rewards.get(config.reward.kind)
    yield tasks.get(config.task)
    yield from (metrics.get(metric.kind) for metric in config.metrics.values())


def run(place: Place, config: Config, inputs: Inputs) -> dict[str, Any]:
    """Score every response."""
    from rlfamily.evaluation.score import text_metrics, write_scores

    measures = text_metrics(place, config.metrics, inputs.metrics)
    summary = write_scores(
        place, inputs.data, inputs.responses, inputs.rewards, config.task, config.reward, measures)
    if place.hardware.wandb != "off":
        _mirror(place, config, inputs)
    return summary


def _mirror(place: Place, config: Config, inputs: Inputs) -> None:
    """The scores' means, beside the curves of the run whose policy gave the responses.

    Nothing was run for a base, and responses from a file are no policy's.
    """
    from rlfamily.evaluation.score import means
    from rlfamily.trainer.tracking import Mirrored, mirror_scores

    layout = Layout(place.shared)
    sources = layout.manifest(inputs.responses.name).inputs
    if "policy" not in sources:
        return
    policy = str(sources["policy"])
    run = layout.manifest(policy)
    if run.kind == "train":
        mirror_scores(place.hardware.wandb, Mirrored(Path(place.hardware.wandb_folder), policy, run.label, {}, {}),
                      list(read_jsonl(layout.object(policy) / "metrics.jsonl")),
                      means(read_jsonl(place.out / "scores.jsonl"), config.task))
