"""What held-out responses are worth: the task's reward and all that it tells of each, row by row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

from rlfamily.evaluation.generate import CHUNK
from rlfamily.examples import Example, read_examples
from rlfamily.models import sharding
from rlfamily.place import Place
from rlfamily.records import read_jsonl, write_jsonl
from rlfamily.rewards import AnyReward, Reward
from rlfamily.rollout.rewarding import task_reward


def write_scores(
    place: Place, data: Path, responses: Path, models: Mapping[str, Path], task: str, config: AnyReward
) -> dict[str, Any]:
    """Score responses.jsonl with the reward `config` of `task` into scores.jsonl, a line a response.

    `models` holds the artifact of each model that the reward reads.
    """
    examples = read_examples(data / "test.jsonl")
    reward = task_reward(place, task, config, models, sharding.accelerator(place.hardware).device)
    rows = list(read_jsonl(responses / "responses.jsonl"))
    scored: list[dict[str, Any]] = []
    for part in _chunks(rows):
        place.progress(len(scored), len(rows), part[0]["mode"])
        scored += _scored(part, examples, reward)
    write_jsonl(place.out / "scores.jsonl", scored)
    return {"responses": len(scored), **place.notes}


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


def _scored(rows: list[dict[str, Any]], examples: list[Example], reward: Reward) -> Iterator[dict[str, Any]]:
    asked = [examples[row["item"]] for row in rows]
    parts = reward.score(asked, [row["response"] for row in rows], [row["truncated"] for row in rows])
    for row, example, part in zip(rows, asked, parts, strict=True):
        benchmark = {"benchmark": example.meta["benchmark"]} if "benchmark" in example.meta else {}
        yield {**part.parts, **benchmark, "reward": part.reward, "length": len(row["ids"]),
               **{name: row[name] for name in ("mode", "item", "draw", "prompt", "response", "truncated")}}
