"""What every settings object is made of: strict, frozen, closed. No Python defaults: numbers live in conf/."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Strict(BaseModel):
    """Frozen, typed, and closed: an unknown, missing or mistyped key is an error, never a guess."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Optimizer(Strict):
    """AdamW and its schedule. The rate is multiplied by the model's `lr_multiplier`; 0 is a negative control."""

    lr: float = Field(ge=0)
    beta1: float = Field(ge=0, lt=1)
    beta2: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    clip_norm: float = Field(gt=0)
    schedule: Literal["constant", "linear"]
    warmup_steps: int = Field(ge=0)


class PairTraining(Strict):
    """Bradley-Terry training: `batch_pairs` preference pairs a step, `epochs` passes."""

    batch_pairs: int = Field(gt=0)
    epochs: int = Field(gt=0)
    optimizer: Optimizer


class RewardModelSettings(PairTraining):
    """A reward model for one policy: its `prompts` pairs are that policy's own, drawn at `temperature`."""

    prompts: int = Field(gt=0)
    temperature: float = Field(gt=0)
