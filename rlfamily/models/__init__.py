"""Models: what can be configured about one. Loading is in `policy`, building from scratch in `scratch`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from rlfamily.models.targets import LINEAR, named
from rlfamily.settings import Location, Optimizer, Strict

DATE_FORMAT = "%d %b %Y"  # of Llama's chat template

# What adapters can go to in a model that is built here: the same names in both architectures.
_SCRATCH_LINEAR = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
                   "mlp.up_proj", "mlp.down_proj")


class Lora(Strict):
    """Low-rank adapters (peft), without dropout: a log-prob must not depend on chance. Used when `finetune` is lora.

    `targets`: last parts of module names (`q_proj`, or a list of them), an expression over whole names, or all-linear.
    """

    rank: int = Field(gt=0)
    alpha: int = Field(gt=0)
    targets: Annotated[str | list[str], Field(min_length=1)]


class Finetuning(Strict):
    """How the weights are trained: precision, all of them or adapters, and the learning-rate multiplier."""

    dtype: Literal["fp32", "bf16"]
    finetune: Literal["full", "lora"]
    lora: Lora
    lr_multiplier: float = Field(gt=0)


class Pretrain(Strict):
    """How a from-scratch base model is trained on a task's corpus; the task says on how much of it."""

    batch_prompts: int = Field(gt=0)
    optimizer: Optimizer


class ScratchShape(Strict):
    """A small model of a real transformers class, with random weights that `seed` fixes. Sizes in units of each.

    Weights start as N(0, initializer_range).
    """

    architecture: Literal["qwen2", "llama"]
    hidden_size: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    layers: int = Field(gt=0)
    heads: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    max_positions: int = Field(gt=0)
    initializer_range: float = Field(gt=0)
    seed: int = Field(ge=0)

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if self.hidden_size % (2 * self.heads):
            raise ValueError(f"heads={self.heads} does not cut hidden_size={self.hidden_size} into parts of an even "
                             "size: change one of them")
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads={self.kv_heads} does not divide heads={self.heads}: change one of them")
        return self


class ScratchModel(Finetuning, ScratchShape):
    """A stand-in that is built and trained here."""

    kind: Literal["scratch"]
    pretrain: Pretrain

    @model_validator(mode="after")
    def _check_targets(self) -> Self:
        if self.lora.targets != LINEAR:
            linear = [f"model.layers.{layer}.{part}" for layer in range(self.layers) for part in _SCRATCH_LINEAR]
            named(self.lora.targets, linear, linear)
        return self


class ModelSize(Strict):
    """What estimates of memory and time need to know of a transformer, before it is downloaded. Counts."""

    parameters: int = Field(gt=0)
    layers: int = Field(gt=0)
    hidden_size: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    heads: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    vocabulary: int = Field(gt=0)


class HubModel(Finetuning):
    """A pretrained causal model: a hub id at a revision, or a local folder. safetensors only, no remote code.

    `date_string` is the day that its chat template is told, as in "26 Jul 2024": the same day, whenever a run goes on.
    `size` serves estimates alone: a stage's key does not hold it.
    """

    kind: Literal["hub"]
    path: Location
    revision: str
    date_string: str
    size: ModelSize

    @field_validator("date_string")
    @classmethod
    def _check_date(cls, value: str) -> str:
        try:
            datetime.strptime(value, DATE_FORMAT)
        except ValueError as error:
            raise ValueError('write the day as in "26 Jul 2024"') from error
        return value


ModelConfig = Annotated[ScratchModel | HubModel, Field(discriminator="kind")]
