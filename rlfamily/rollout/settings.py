"""What can be configured about drawing responses: the engine, and whether training corrects for it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from rlfamily.decoding import AnyDecoding
from rlfamily.rewards import AnyReward
from rlfamily.settings import Distribution, Limits, Strict

ADAPTER_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM keeps room for; an adapter takes the room of the next one."""


class Drawing(Strict):
    """Which engine draws responses, and whether training corrects for it: what can change a run.

    `importance_cap` weights each token's gradient by min(trainer's / engine's probability, cap); null: not at all.
    """

    engine: Literal["torch", "vllm"]
    importance_cap: float | None = Field(gt=0)


class Guiding(Strict):
    """What decoders know of a task: its check, and its reward."""

    task: str
    reward: AnyReward | None


class Generation(Strict):
    """How held-out responses are made: `draws` sampled ones to each of the first `prompts`, and a greedy one."""

    prompts: int = Field(gt=0)
    draws: int = Field(gt=0)
    greedy: bool
    limits: Limits
    distribution: Distribution
    decoding: AnyDecoding
    engine: Literal["torch", "vllm"]


class Rollout(Drawing):
    """The same, and when tables warn: above `mismatch_limit` nats a token of KL(engine || trainer)."""

    mismatch_limit: float = Field(gt=0)


def uses_vllm(config: Any) -> bool:
    """True when a stage's configuration names vllm as an engine anywhere: its policy's, its judge's, a reward's."""
    if isinstance(config, dict):
        return config.get("engine") == "vllm" or any(uses_vllm(value) for value in config.values())
    return isinstance(config, list) and any(map(uses_vllm, config))
