"""Models: what can be configured about one. Loading is in `policy`, building from scratch in `scratch`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rlfamily.algorithms.settings import Optimizer, Strict


class Lora(Strict):
    """Low-rank adapters (peft), without dropout: a log-prob must not depend on chance. Used when `finetune` is lora."""

    rank: int = Field(gt=0)
    alpha: int = Field(gt=0)
    targets: str


class Finetuning(Strict):
    """How the weights are trained: precision, all of them or adapters, and the learning-rate multiplier."""

    dtype: Literal["fp32", "bf16"]
    finetune: Literal["full", "lora"]
    lora: Lora
    lr_multiplier: float = Field(gt=0)


class Pretrain(Strict):
    """Training of a from-scratch base model on the task's corpus, with the sampled valid rate it must reach."""

    prompts: int = Field(gt=0)
    batch_prompts: int = Field(gt=0)
    epochs: int = Field(gt=0)
    min_valid_rate: float = Field(ge=0, le=1)
    optimizer: Optimizer


class ScratchModel(Finetuning):
    """A small model of a real transformers class, built and trained here. Sizes in units of each."""

    kind: Literal["scratch"]
    architecture: Literal["qwen2"]
    hidden_size: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    layers: int = Field(gt=0)
    heads: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    max_positions: int = Field(gt=0)
    seed: int = Field(ge=0)
    pretrain: Pretrain


class HubModel(Finetuning):
    """A pretrained causal model: a hub id at a revision, or a local folder. safetensors only, no remote code."""

    kind: Literal["hub"]
    path: str
    revision: str


ModelConfig = Annotated[ScratchModel | HubModel, Field(discriminator="kind")]
