"""UltraFeedback (RPO sec. IV.A): instructions with logged responses and their rewards, to learn from without drawing.

Source `generated`: instructions with a hidden true reward (no network).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from rlfamily import tasks
from rlfamily.examples import Logged
from rlfamily.tasks import TaskConfig
from rlfamily.tasks.support import instructions, logged, standin

VERSION = "1"
HAS: frozenset[str] = frozenset({"logged", "demonstrations"})
GIVES: frozenset[str] = frozenset({"gold", "reference"})
LOWEST, HIGHEST = 1.0, 10.0  # the scale of UltraFeedback's overall score
STEP = 0.5


class Generated(standin.Sizes):
    """Instructions made here (`rlfamily.tasks.support.instructions`) and their logged responses.

    A prompt has 1, 2, ... responses, with probabilities in proportion to `groups`: first one of each quality, in random
    order, then any. Its reward is the hidden true one on UltraFeedback's scale from 1 to 10, with Gaussian `noise` and
    `length_bias` for each word, to the nearest half. `mixture` says how often the corpus has which quality.
    """

    kind: Literal["generated"]
    groups: list[float] = Field(min_length=1)
    noise: float = Field(ge=0)
    length_bias: float = Field(ge=0)
    mixture: dict[str, float]

    @model_validator(mode="after")
    def _check_mixture(self) -> Generated:
        if set(self.mixture) != set(instructions.QUALITIES):
            raise ValueError(f"mixture names {', '.join(self.mixture)}: give a weight to each of "
                             f"{', '.join(instructions.QUALITIES)}")
        return self


class Data(tasks.Data):
    """All that the files of the task depend on."""

    source: Generated


class Config(Data, TaskConfig):
    """Settings of the task: its data, its reward, and how it is trained and evaluated on."""

    kind: Literal["ultrafeedback"]

    @property
    def test_prompts(self) -> int:
        """Of either source."""
        return self.source.test


def build(data: Data, out: Path) -> dict[str, Any]:
    """Write the task's files into `out` and return their counts. See `rlfamily.tasks.Task.build`."""
    return _build_generated(data.source, out)


def score(response: str, meta: Mapping[str, Any]) -> dict[str, float]:
    """The hidden true reward of a stand-in's response (`instructions.judge`); nothing is known of the public data."""
    return instructions.judge(response, meta) if "facts" in meta else {}


# ---------------------------------------------------------------------------- stand-in


def _build_generated(source: Generated, out: Path) -> dict[str, Any]:
    count = source.train + source.validation + source.test
    names, weights = list(source.mixture), list(source.mixture.values())
    world = standin.World(
        instructions.prompts(count, source.seed),
        lambda meta, rng: instructions.QUALITIES[rng.choices(names, weights)[0]](meta, rng), instructions.judge, {},
        instructions.vocabulary())
    splits = standin.split(world, source)
    return {**standin.write(world, splits, source, out),
            **logged.write(out, {name: _logged(splits[name], name, source) for name in ("train", "validation")})}


def _logged(prompts: Sequence[tuple[str, standin.Meta]], split: str, source: Generated) -> list[Logged]:
    rng, rows = random.Random(f"{source.seed} logged {split}"), []
    for place, (prompt, meta) in enumerate(prompts):
        size = rng.choices(range(1, len(source.groups) + 1), source.groups)[0]
        first = rng.sample(list(instructions.QUALITIES), len(instructions.QUALITIES))
        qualities = [*first, *rng.choices(first, k=size)][:size]
        responses = [instructions.QUALITIES[quality](meta, rng) for quality in qualities]
        rows.append(Logged(f"{split}-{place}", prompt, responses,
                           [_reward(response, meta, source, rng) for response in responses]))
    return rows


def _reward(response: str, meta: standin.Meta, source: Generated, rng: random.Random) -> float:
    gold = instructions.judge(response, meta)["gold"]
    told = (LOWEST + gold * (HIGHEST - LOWEST) + source.noise * rng.gauss()
            + source.length_bias * len(response.split()))
    return min(HIGHEST, max(LOWEST, round(told / STEP) * STEP))
