"""What every loaded model has: weights on a device, a tokenizer, a precision."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Loaded:
    """A model with its tokenizer. `dtype` bf16 means bf16 arithmetic on fp32 weights."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dtype: str, device: torch.device
    ) -> None:
        self.model = model.to(device)
        self.tokenizer = tokenizer
        self.dtype = dtype
        self.device = device

    @property
    def pad_id(self) -> int:
        """Id used for padding; a tokenizer without one pads with EOS (masks come from lengths, so that is safe)."""
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)

    @property
    def eos_id(self) -> int:
        """Id that ends a response."""
        return int(self.tokenizer.eos_token_id)

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that training changes, by name, in a fixed order."""
        return {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}

    def autocast(self) -> torch.autocast:
        """bf16 arithmetic on fp32 master weights, or plain fp32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == "bf16")
