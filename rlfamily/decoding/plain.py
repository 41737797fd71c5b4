"""Plain decoding: each response is drawn token by token from the policy, and none is thrown away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from rlfamily.decoding import Cost, Decoded, DecodingConfig

if TYPE_CHECKING:
    from rlfamily.rollout import Engine, SamplingParams

VERSION = "1"


class Config(DecodingConfig):
    """Nothing to set: how to draw is the task's."""

    kind: Literal["plain"]


def decode(
    config: Config, engine: Engine, prompts: Sequence[Sequence[int]], params: SamplingParams, seeds: Sequence[int],
    copies: int,
) -> list[Decoded]:
    """One forward pass a token: the first reads the prompt."""
    drawn = engine.generate(prompts, params, seeds, copies)
    return [Decoded(one, Cost(tokens=len(one.ids), forwards=len(one.ids))) for one in drawn]
