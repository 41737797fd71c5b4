"""What the trainer trains: anything with a forward pass whose leaves a loss can be differentiated by."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from rlfamily.models.batching import Forward, RowTensors
from rlfamily.models.layouts import Layout


class Learner(Protocol):
    """A trainable model on a device. `dtype` is fp32 or bf16, `layout` how it takes rows."""

    model: nn.Module
    device: torch.device
    tokenizer: PreTrainedTokenizerBase
    layout: Layout
    dtype: str

    @property
    def pad_id(self) -> int:
        """Id used for padding."""
        ...

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that training changes, by name, in a fixed order."""
        ...

    def evaluate(self, rows: RowTensors, temperature: float) -> Forward:
        """One forward pass over a micro-batch, with gradient when grad mode is on."""
        ...

    def save(self, folder: Path) -> None:
        """Write a folder that loads again; every process must call it when the weights are sharded."""
        ...
