"""A soft punishment of responses that are about too long (DAPO, Yu et al. 2025, arXiv 2503.14476, eq. 13).

    R'_i = R_i + weight * clip((max_length - buffer - |y_i|) / buffer, -1, 0)

Nothing up to max_length - buffer tokens, then linearly less, -weight from max_length on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from rlfamily.shaping import ShapingConfig

if TYPE_CHECKING:
    from torch import Tensor

VERSION = "1"


class Config(ShapingConfig):
    """Lengths in tokens of the response, its end included; `weight` in units of the reward."""

    kind: Literal["overlong"]
    max_length: int = Field(gt=0)
    buffer: int = Field(gt=0)
    weight: float = Field(gt=0)

    @model_validator(mode="after")
    def _check_buffer(self) -> Config:
        if self.buffer > self.max_length:
            raise ValueError(f"buffer={self.buffer} is more than max_length={self.max_length}: lower it")
        return self


def shape(
    config: Config, rewards_N: Tensor, parts: Mapping[str, Tensor], lengths_N: Tensor, group_size: int, progress: float
) -> Tensor:
    """Never more than the reward given, and at most `weight` less."""
    room_N = (config.max_length - config.buffer - lengths_N.to(rewards_N)) / config.buffer
    return rewards_N + config.weight * room_N.clamp(-1.0, 0.0)
