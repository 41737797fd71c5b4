"""UltraFeedback (RPO sec. IV.A): instructions with logged responses and their rewards, to learn from without drawing.

Two sources: `generated` instructions with a hidden true reward (no network), and the public UltraFeedback (`hub`).
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from rlfamily import tasks
from rlfamily.errors import UserError, nearest
from rlfamily.examples import Example, Logged
from rlfamily.settings import Strict
from rlfamily.tasks import TaskConfig
from rlfamily.tasks.support import alpaca, hub, instructions, logged, rated, same, standin

VERSION = "1"
HAS: frozenset[str] = frozenset({"logged", "demonstrations"})
GIVES: frozenset[str] = frozenset({"gold", "reference"})
KEY = "task.source.dataset"


class Generated(rated.Rated):
    """Instructions made here and their logged responses (`rlfamily.tasks.support.rated`)."""

    kind: Literal["generated"]


class Hub(Strict):
    """The public data: a row has an instruction and `completions`, each with its `response` and its `reward`.

    `test` prompts are drawn with `seed` among those with a response of reward `reference_reward`; the first such
    response is the reference; or, with `held_out`, they and their references stand in a file. `validation` prompts
    are drawn from the rest, and all others are trained on.
    """

    kind: Literal["hub"]
    seed: int = Field(ge=0)
    dataset: hub.HubDataset
    instruction: str
    completions: str
    response: str
    reward: str
    reference_reward: float
    validation: int = Field(gt=0)
    test: int = Field(gt=0)
    held_out: alpaca.HeldOut | None


class Data(tasks.Data):
    """All that the files of the task depend on."""

    source: Generated | Hub = Field(discriminator="kind")


class Config(Data, TaskConfig):
    """Settings of the task: its data, its reward, and how it is trained and evaluated on."""

    kind: Literal["ultrafeedback"]

    @property
    def test_prompts(self) -> int:
        """Of either source."""
        return self.source.test


def build(data: Data, out: Path) -> dict[str, Any]:
    """Write the task's files into `out` and return their counts. See `rlfamily.tasks.Task.build`."""
    source = data.source
    return _build_generated(source, out) if isinstance(source, Generated) else _build_hub(source, out)


def score(response: str, meta: Mapping[str, Any]) -> dict[str, float]:
    """The hidden true reward of a stand-in's response (`instructions.judge`); nothing is known of the public data."""
    return instructions.judge(response, meta) if "facts" in meta else {}


# ---------------------------------------------------------------------------- stand-in


def _build_generated(source: Generated, out: Path) -> dict[str, Any]:
    world = rated.world(source)
    splits = standin.split(world, source)
    return {**standin.write(world, splits, source, out),
            **logged.write(out, {name: rated.logged(splits[name], name, source) for name in ("train", "validation")})}


# ---------------------------------------------------------------------------- public dataset


def _build_hub(source: Hub, out: Path) -> dict[str, Any]:
    left_out: Counter[str] = Counter()
    rows = hub.load(source.dataset, "train", (source.instruction, source.completions), KEY)
    found = list(filter(None, (_read(cells, row, source, left_out) for row, cells in enumerate(rows))))
    order = random.Random(source.seed).sample(found, len(found))
    held_out: set[Hashable] = set()

    def taken(among: Iterable[Logged], split: str, count: int | None) -> list[Logged]:
        chosen = same.unseen(among, lambda one: [same.normal(one.prompt)], held_out, left_out, f"{split} prompts",
                             count)
        held_out.update(same.normal(one.prompt) for one in chosen)
        return [replace(one, id=f"{split}-{one.id}") for one in chosen]

    if source.held_out is not None:
        test = alpaca.examples(source.held_out, source.test)
        held_out.update(same.normal(one.prompt) for one in test)
    else:
        best = [one for one in order if source.reference_reward in one.rewards]
        test = [_example(one, {"reference": one.responses[one.rewards.index(source.reference_reward)]})
                for one in taken(best, "test", source.test)]
    names = {one.id.removeprefix("test-") for one in test} if source.held_out is None else set()
    rest = [one for one in order if one.id not in names]
    validation = taken(rest, "validation", source.validation)
    names |= {one.id.removeprefix("validation-") for one in validation}
    train = taken([one for one in rest if one.id not in names], "train", None)
    splits = {"test": test,
              "validation": [_example(one, {}) for one in validation], "train": [_example(one, {}) for one in train]}
    hub.write_splits(out, splits, {"test": source.test, "validation": source.validation, "train": 1},
                     source.dataset.path)
    return {**{split: len(examples) for split, examples in splits.items()},
            **logged.write(out, {"train": train, "validation": validation}), tasks.LEFT_OUT: dict(left_out),
            "dataset_revision": hub.resolved_revision(source.dataset)}


def _read(cells: Mapping[str, Any], row: int, source: Hub, left_out: Counter[str]) -> Logged | None:
    """A row's prompt with its responses that have text and a reward; None, counted, for a row that has none."""
    prompt = hub.text(cells[source.instruction], source.dataset, source.instruction, row, KEY)
    responses, rewards = [], []
    for completion in cells[source.completions] or []:
        for field in (source.response, source.reward):
            if not isinstance(completion, Mapping) or field not in completion:
                there = list(completion) if isinstance(completion, Mapping) else []
                raise UserError(f"{KEY}: column '{source.completions}' of '{source.dataset.path}' has no field "
                                f"'{field}' in row {row}{nearest(field, there)}: name one that it has")
        response = hub.text(completion[source.response], source.dataset, source.response, row, KEY)
        reward = completion[source.reward]
        if response is None or not isinstance(reward, int | float) or not math.isfinite(reward):
            left_out["responses without text or reward"] += 1
        else:
            responses.append(response)
            rewards.append(float(reward))
    if prompt is None or not responses:
        left_out["rows without instruction or responses"] += 1
        return None
    return Logged(str(row), prompt, responses, rewards)


def _example(one: Logged, meta: dict[str, Any]) -> Example:
    return Example(one.id, one.prompt, {"messages": [{"role": "user", "content": one.prompt}], **meta})
