"""What the two vLLM engines share: how a server or an engine starts, what its failures mean, weights as it reads them.

Nothing here imports vllm: a server may run where it is installed, and the trainer where it is not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file

from rlfamily.errors import UserError
from rlfamily.hardware import VllmPlacement
from rlfamily.models.policy import locate
from rlfamily.rollout.settings import ADAPTER_RANKS

if TYPE_CHECKING:
    from torch import Tensor

    from rlfamily.models.policy import Policy

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
"""Our names of precisions to vLLM's, which are torch's."""

UNKNOWN = "vLLM has no such model class: use rollout.engine=torch"

# What vLLM says when it cannot start, and what to do about it; the first that is found counts.
_REMEDIES = (
    (("are not supported for now", "has no vLLM implementation", "not supported by vLLM"),
     UNKNOWN),
    (("KV cache is needed", "cache blocks"), "the KV cache does not hold one response of full length: raise "
                                             "hardware.vllm.memory_share (GPU) or hardware.vllm.kv_cache_mib"),
    (("max_model_len",), "the model's context is shorter than task.max_tokens_rollout or task.max_tokens_evaluation: "
                         "lower them"),
    (("Free memory on device", "Available memory on node", "out of memory"),
     "not enough free memory: lower hardware.vllm.memory_share or hardware.vllm.kv_cache_mib, or free the device"),
)


@dataclass(frozen=True)
class Start:
    """What an engine is started with: the model's folder or pointer, its precision, and the longest sequence in tokens.

    `adapter_rank` 0 means no adapters; `shared` that several training processes run, each with an engine or a part.
    """

    folder: Path
    dtype: str
    max_total_tokens: int | None
    adapter_rank: int
    shared: bool


def start_options(start: Start, settings: VllmPlacement) -> dict[str, Any]:
    """How to start vLLM, in its own words: names of arguments, and of a server's flags when spelt with dashes."""
    source, options = locate(start.folder)
    memory = {"kv_cache_memory_bytes": settings.kv_cache_mib << 20} if settings.kv_cache_mib else {}
    adapters = {"enable_lora": True, "max_loras": 1, "max_cpu_loras": 2, "max_lora_rank": room(start.adapter_rank)}
    return {"model": source, **options, "dtype": DTYPES[start.dtype], "max_model_len": start.max_total_tokens,
            "tensor_parallel_size": settings.tensor_parallel, "gpu_memory_utilization": settings.memory_share,
            "max_num_seqs": settings.rows, "enforce_eager": settings.eager, **memory,
            **(adapters if start.adapter_rank else {}), "model_impl": "vllm", "generation_config": "vllm",
            "logprobs_mode": "processed_logprobs", "enable_prefix_caching": True, "disable_log_stats": True, "seed": 0}


def room(rank: int) -> int:
    """The least rank vLLM keeps room for that holds `rank`; config.py refuses one that has no room."""
    return next(size for size in ADAPTER_RANKS if rank <= size)


def tied(policy: Policy, weights: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """`weights` with the output layer named, also when it is the embedding: on CPUs vLLM has packed a copy of it."""
    for name, weight in weights:
        yield name, weight
        if name == "model.embed_tokens.weight" and policy.model.config.tie_word_embeddings:
            yield "lm_head.weight", weight


def write_adapter(policy: Policy, weights: dict[str, Tensor], folder: Path) -> None:
    """An adapter as peft saves it."""
    save_file({name: weight.contiguous().cpu() for name, weight in weights.items()},
              folder / "adapter_model.safetensors")
    config = policy.model.peft_config["default"].to_dict()
    targets = config["target_modules"]
    config["target_modules"] = sorted(targets) if isinstance(targets, set) else targets
    (folder / "adapter_config.json").write_text(json.dumps(config, default=str))


def explain(model: str, text: str) -> UserError:
    """What vLLM said at its start, as one line with a remedy where one is known."""
    text = " ".join(text.split())
    for signs, remedy in _REMEDIES:
        if any(sign in text for sign in signs):
            return UserError(f"vllm: cannot start with '{model}': {remedy} ({text[:300]})")
    return UserError(f"vllm: cannot start with '{model}': {text[:400]}")
