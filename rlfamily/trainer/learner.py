"""What the trainer trains: anything with a forward pass whose output a loss can be differentiated by."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from rlfamily.models.batching import Forward, Padded


class Learner(Protocol):
    """A trainable model on a device.

    `token_level` says whether its leaf is logp_NT or score_N, `shares_prefixes` whether it passes no padding, and a
    prompt that rows side by side have only once. `dtype` is fp32 or bf16.
    """

    model: nn.Module
    device: torch.device
    tokenizer: PreTrainedTokenizerBase
    token_level: bool
    shares_prefixes: bool
    dtype: str

    @property
    def pad_id(self) -> int:
        """Id used for padding."""
        ...

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that training changes, by name, in a fixed order."""
        ...

    def evaluate(self, rows: Padded, temperature: float) -> Forward:
        """One forward pass over a micro-batch, with gradient when grad mode is on."""
        ...

    def save(self, folder: Path) -> None:
        """Write a folder that loads again; every process must call it when the weights are sharded."""
        ...
