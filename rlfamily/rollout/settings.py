"""What can be configured about drawing responses: the engine (part of a stage's key) and its machine (never part)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from rlfamily.settings import Strict

ADAPTER_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM keeps room for; an adapter takes the room of the next one."""


class Drawing(Strict):
    """Which engine draws responses, and whether training corrects for it: what can change a run.

    `importance_cap` weights each token's gradient by min(trainer's / engine's probability, cap); null: not at all.
    """

    engine: Literal["torch", "vllm"]
    importance_cap: float | None = Field(gt=0)


class Rollout(Drawing):
    """The same, and when tables warn: above `mismatch_limit` nats a token of KL(engine || trainer)."""

    mismatch_limit: float = Field(gt=0)


class Vllm(Strict):
    """How vLLM is placed on the machine; none of it may change a number.

    mode               colocated: in each training process; server: an OpenAI-compatible server of its own
    server_url         a server that runs already; null: each stage starts one, on processors of its own
    tensor_parallel    processes (colocated) or processors (server) that share one copy of the model
    data_parallel      copies of the model behind a server; colocated, every group of processes has its own
    memory_share       share of a GPU's memory for weights and KV cache
    kv_cache_mib       size of the KV cache in MiB instead, for CPUs; 0: what memory_share leaves
    rows               responses decoded together
    eager              no CUDA graphs and no compilation: slower, starts sooner
    sleep              give the GPU's memory back between rollouts
    retries            of a call to a server that fails for a passing reason
    timeout_seconds    of a call to a server, and of its start
    """

    mode: Literal["colocated", "server"]
    server_url: str | None
    tensor_parallel: int = Field(gt=0)
    data_parallel: int = Field(gt=0)
    memory_share: float = Field(gt=0, le=1)
    kv_cache_mib: int = Field(ge=0)
    rows: int = Field(gt=0)
    eager: bool
    sleep: bool
    retries: int = Field(ge=0)
    timeout_seconds: float = Field(gt=0)

    @property
    def shared(self) -> int:
        """Training processes that draw with one engine together, and so draw the same responses."""
        return self.tensor_parallel if self.mode == "colocated" else 1


def uses_vllm(config: Any) -> bool:
    """True when a stage's configuration names vllm as an engine anywhere: its policy's, its judge's, a reward's."""
    if isinstance(config, dict):
        return config.get("engine") == "vllm" or any(uses_vllm(value) for value in config.values())
    return isinstance(config, list) and any(map(uses_vllm, config))
