"""Models: what can be configured about one. Loading is in `policy`, building from scratch in `scratch`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from rlfamily.models.targets import LINEAR, named
from rlfamily.settings import Location, Optimizer, Strict

Family = Literal["causal", "encoder_decoder"]
"""A decoder alone, or one that reads what an encoder made of the prompt."""

DATE_FORMAT = "%d %b %Y"  # of Llama's chat template

# What adapters can go to in a model that is built here, by where its layers are.
_Parts = dict[str, tuple[str, ...]]
_CAUSAL: _Parts = {"model.layers": (*(f"self_attn.{part}_proj" for part in "qkvo"),
                                    *(f"mlp.{part}_proj" for part in ("gate", "up", "down")))}
_T5: _Parts = {
    "encoder.block": (*(f"layer.0.SelfAttention.{part}" for part in "qkvo"),
                      *(f"layer.1.DenseReluDense.{part}" for part in ("wi_0", "wi_1", "wo"))),
    "decoder.block": (*(f"layer.0.SelfAttention.{part}" for part in "qkvo"),
                      *(f"layer.1.EncDecAttention.{part}" for part in "qkvo"),
                      *(f"layer.2.DenseReluDense.{part}" for part in ("wi_0", "wi_1", "wo"))),
}
_SCRATCH_LINEAR = {"qwen2": _CAUSAL, "llama": _CAUSAL, "t5": _T5}
T5_BUCKETS = 32
"""Relative positions that T5 tells apart; up to half as many tokens back each distance has its own."""


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

    Weights start as N(0, initializer_range). `t5` has as many layers in its encoder as in its decoder, a key head for
    each head, no limit of positions (distances from max_positions on are one to it), and a spread for each kind of
    weight, which initializer_range multiplies.
    """

    architecture: Literal["qwen2", "llama", "t5"]
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
        if self.architecture == "t5" and self.kv_heads != self.heads:
            raise ValueError(f"kv_heads={self.kv_heads}: t5 has a key head for each head: use kv_heads={self.heads}")
        if self.architecture == "t5" and self.max_positions <= T5_BUCKETS // 2:
            raise ValueError(f"max_positions={self.max_positions}: t5 tells the first {T5_BUCKETS // 2} distances "
                             "apart one by one: use a larger one")
        return self

    @property
    def family(self) -> Family:
        """A decoder alone, or with an encoder."""
        return "encoder_decoder" if self.architecture == "t5" else "causal"


class ScratchModel(Finetuning, ScratchShape):
    """A stand-in that is built and trained here."""

    kind: Literal["scratch"]
    pretrain: Pretrain

    @model_validator(mode="after")
    def _check_targets(self) -> Self:
        if self.lora.targets != LINEAR:
            linear = [f"{place}.{layer}.{part}" for place, parts in _SCRATCH_LINEAR[self.architecture].items()
                      for layer in range(self.layers) for part in parts]
            named(self.lora.targets, linear, linear)
        return self


class ModelSize(Strict):
    """What estimates of memory and time need to know of a transformer, before it is downloaded. Counts.

    `layers` are those that tokens are predicted through, `encoder_layers` those that only prompts pass.
    """

    parameters: int = Field(gt=0)
    layers: int = Field(gt=0)
    encoder_layers: int = Field(ge=0)
    hidden_size: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    heads: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    vocabulary: int = Field(gt=0)


class HubModel(Finetuning):
    """A pretrained language model: a hub id at a revision, or a local folder. safetensors only, no remote code.

    `family` is what the model is, for what is refused before it is there; another one is refused when it is.
    `date_string` is the day that its chat template is told, as in "26 Jul 2024": the same day, whenever a run goes on.
    `size` serves estimates alone: a stage's key does not hold it.
    """

    kind: Literal["hub"]
    path: Location
    revision: str
    family: Family
    date_string: str
    size: ModelSize

    @model_validator(mode="after")
    def _check_size(self) -> Self:
        if (self.size.encoder_layers > 0) != (self.family == "encoder_decoder"):
            raise ValueError(f"size.encoder_layers={self.size.encoder_layers} is not that of family={self.family}: "
                             "0 for causal models, what config.json says for others")
        return self

    @field_validator("date_string")
    @classmethod
    def _check_date(cls, value: str) -> str:
        try:
            datetime.strptime(value, DATE_FORMAT)
        except ValueError as error:
            raise ValueError('write the day as in "26 Jul 2024"') from error
        return value


ModelConfig = Annotated[ScratchModel | HubModel, Field(discriminator="kind")]
