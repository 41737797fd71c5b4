"""What held-out responses are worth: the task's reward, all that it tells of each, and text metrics, row by row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

from rlfamily import metrics
from rlfamily.evaluation.sampler import CHUNK
from rlfamily.examples import Example, read_examples
from rlfamily.metrics import AnyMetric, Measured, TextMetric
from rlfamily.models import sharding
from rlfamily.place import Place
from rlfamily.records import SIGNATURES, read_jsonl, write_jsonl
from rlfamily.rewards import AnyReward, Reward
from rlfamily.rollout.rewarding import task_reward


def text_metrics(
    place: Place, configs: Mapping[str, AnyMetric], models: Mapping[str, Path]
) -> dict[str, TextMetric]:
    """Load metrics; `models` holds the artifact of each model that one reads, as metric.model.

    Raises UserError when a model cannot be loaded.
    """
    device, found = sharding.accelerator(place.hardware).device, {}
    for name, config in configs.items():
        own = {model.removeprefix(f"{name}."): folder / "model" for model, folder in models.items()
               if model.startswith(f"{name}.")}
        found[name] = metrics.get(config.kind).load(config, metrics.Reader(own, device, place.hardware.micro_batch))
    return found


def write_scores(
    place: Place, data: Path, responses: Path, models: Mapping[str, Path], task: str, config: AnyReward,
    measures: Mapping[str, TextMetric],
) -> dict[str, Any]:
    """Score responses.jsonl with the reward `config` of `task` and with `measures` into scores.jsonl, a line each.

    `models` holds the artifact of each model that the reward reads.
    """
    examples = read_examples(data / "test.jsonl")
    reward = task_reward(place, task, config, models, sharding.accelerator(place.hardware).device)
    rows = list(read_jsonl(responses / "responses.jsonl"))
    scored: list[dict[str, Any]] = []
    for part in _chunks(rows):
        place.progress(len(scored), len(rows), part[0]["mode"])
        scored += _scored(part, examples, reward, measures)
    write_jsonl(place.out / "scores.jsonl", scored)
    signatures = {SIGNATURES: {name: one.signature() for name, one in measures.items()}} if measures else {}
    return {"responses": len(scored), **signatures, **place.notes}


def means(rows: Iterable[Mapping[str, Any]], task: str) -> dict[str, float]:
    """Means of what scores hold, by benchmark/mode/name; `task` stands where there are no benchmarks."""
    values: defaultdict[str, list[float]] = defaultdict(list)
    for row in rows:
        for name, value in row.items():
            if name not in ("item", "draw") and isinstance(value, int | float):
                values[f"{row.get('benchmark', task)}/{row['mode']}/{name}"].append(value)
    return {name: fmean(some) for name, some in values.items()}


def _chunks(rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Rows of one mode and of CHUNK prompts go to the reward together."""
    for _, part in groupby(rows, lambda row: (row["mode"], row["item"] // CHUNK)):
        yield list(part)


def _scored(
    rows: list[dict[str, Any]], examples: list[Example], reward: Reward, measures: Mapping[str, TextMetric]
) -> Iterator[dict[str, Any]]:
    asked, responses = [examples[row["item"]] for row in rows], [row["response"] for row in rows]
    parts = reward.score(asked, responses, [row["truncated"] for row in rows])
    references = [example.meta[metrics.NEEDED] for example in asked] if measures else []
    measured: dict[str, list[Measured]] = {name: one.measure(responses, references) for name, one in measures.items()}
    for place, (row, example, part) in enumerate(zip(rows, asked, parts, strict=True)):
        benchmark = {"benchmark": example.meta["benchmark"]} if "benchmark" in example.meta else {}
        texts = {name: values[place] for name, values in measured.items()}
        length = {"length": len(row["ids"])} if "ids" in row else {}  # in tokens: a response from a file has none
        yield {**part.parts, **benchmark, **texts, **length, "reward": part.reward,
               **{name: row[name] for name in ("mode", "item", "draw", "prompt", "response", "truncated")}}
