"""Rated responses of the world of instructions: what learns from logged rewards, and preferences made of them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from rlfamily.examples import Logged
from rlfamily.tasks.support import instructions, standin

LOWEST, HIGHEST = 1.0, 10.0  # the scale of UltraFeedback's overall score
STEP = 0.5


class Rated(standin.Sizes):
    """Instructions made here (`rlfamily.tasks.support.instructions`) and their logged responses.

    A prompt has 1, 2, ... responses, with probabilities in proportion to `groups`: first one of each quality, in random
    order, then any. Its reward is the hidden true one on UltraFeedback's scale from 1 to 10, with Gaussian `noise` and
    `length_bias` for each word, to the nearest half. `mixture` says how often the corpus has which quality.
    """

    groups: list[Annotated[float, Field(ge=0)]] = Field(min_length=1)
    noise: float = Field(ge=0)
    length_bias: float = Field(ge=0)
    mixture: dict[str, Annotated[float, Field(ge=0)]]

    @model_validator(mode="after")
    def _check_mixture(self) -> Self:
        if set(self.mixture) != set(instructions.QUALITIES):
            raise ValueError(f"mixture names {', '.join(self.mixture)}: give a weight to each of "
                             f"{', '.join(instructions.QUALITIES)}")
        for name, weights in (("groups", self.groups), ("mixture", self.mixture.values())):
            if not any(weights):
                raise ValueError(f"{name} has weights of 0 alone: give one that is above 0")
        return self


def world(source: Rated) -> standin.World:
    """Prompts, and how people answer them."""
    names, weights = list(source.mixture), list(source.mixture.values())
    return standin.World(
        instructions.prompts(source.train + source.validation + source.test, source.seed),
        lambda meta, rng: instructions.QUALITIES[rng.choices(names, weights)[0]](meta, rng), instructions.judge, {},
        instructions.vocabulary())


def logged(prompts: Sequence[tuple[str, standin.Meta]], split: str, source: Rated) -> list[Logged]:
    """Responses to each prompt with their ratings."""
    rng, rows = random.Random(f"{source.seed} logged {split}"), []
    for place, (prompt, meta) in enumerate(prompts):
        size = rng.choices(range(1, len(source.groups) + 1), source.groups)[0]
        first = rng.sample(list(instructions.QUALITIES), len(instructions.QUALITIES))
        qualities = [*first, *rng.choices(first, k=size)][:size]
        responses = [instructions.QUALITIES[quality](meta, rng) for quality in qualities]
        rows.append(Logged(f"{split}-{place}", prompt, responses,
                           [_reward(response, meta, source, rng) for response in responses]))
    return rows


def preferences(rows: Sequence[Logged], seed: int) -> list[dict[str, Any]]:
    """Every two responses of a prompt whose ratings differ, the better-rated chosen, in random order."""
    found = [pair for one in rows for pair in _ordered(one)]
    return random.Random(f"{seed} preferences").sample(found, len(found))


def _ordered(one: Logged) -> Iterator[dict[str, Any]]:
    rated = list(zip(one.rewards, one.responses, strict=True))
    for (reward, response), (other_reward, other) in combinations(rated, 2):
        if reward != other_reward:
            chosen, rejected = (response, other) if reward > other_reward else (other, response)
            yield {"prompt": one.prompt, "chosen": chosen, "rejected": rejected}


def _reward(response: str, meta: standin.Meta, source: Rated, rng: random.Random) -> float:
    gold = instructions.judge(response, meta)["gold"]
    told = (LOWEST + gold * (HIGHEST - LOWEST) + source.noise * rng.gauss()
            + source.length_bias * len(response.split()))
    return min(HIGHEST, max(LOWEST, round(told / STEP) * STEP))
