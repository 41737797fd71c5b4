"""Inference-time methods: one file each, with a `Config` and a `decode`; which is used is the group `decoding`.

The file system is the registry: `get("plain")` imports `rlfamily/decoding/plain.py`. A method holds its rule only:
sampling, caches and batching are the engine's, and what a response cost is counted here. Any policy, trained or not,
meets any decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from pydantic import SerializeAsAny

from rlfamily.plugins import Plugins
from rlfamily.settings import Strict, by_kind

if TYPE_CHECKING:
    from rlfamily.rollout import Completion, Engine, SamplingParams


class DecodingConfig(Strict):
    """Common part of every decoder's Config: its file in this folder."""

    kind: str


@dataclass(frozen=True)
class Cost:
    """What one response took: tokens that were generated (those thrown away too), sequences that a model was passed
    forward for to draw one more token or to score, and questions to value functions and to reward models.
    """

    tokens: int
    forwards: int
    value_queries: int = 0
    reward_queries: int = 0

    def counters(self) -> dict[str, int]:
        """As fields of a row, by name."""
        return {f"cost_{name}": count for name, count in asdict(self).items()}


@dataclass(frozen=True)
class Decoded:
    """One response and its cost."""

    completion: Completion
    cost: Cost


class Decoder(Protocol):
    """What a module in this folder offers. VERSION is changed by hand when its numbers change."""

    VERSION: str
    Config: type[DecodingConfig]

    def decode(
        self, config: Any, engine: Engine, prompts: Sequence[Sequence[int]], params: SamplingParams,
        seeds: Sequence[int], copies: int,
    ) -> list[Decoded]:
        """`copies` responses to each prompt, in order; response k to prompt b uses stream `seeds[b] + k` alone."""
        ...


DECODERS = Plugins[Decoder]("decoding", "decoding.kind", "decoder")
names, get = DECODERS.names, DECODERS.get


AnyDecoding = Annotated[SerializeAsAny[DecodingConfig], by_kind(lambda kind: get(kind).Config)]
