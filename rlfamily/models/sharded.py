"""Weights that several processes hold a share of each: made whole again.

What gathers is collective: every process must ask for the same tensors in the same order.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from rlfamily.models.families import auto_class


def world_size() -> int:
    """Processes that train together; 1 where none were started together."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def is_sharded(weight: Tensor) -> bool:
    """True when this process holds a share only."""
    return isinstance(weight, DTensor)


def whole(weight: Tensor) -> Tensor:
    """The weight itself, or all its shares put together, on the weight's device."""
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def kept(weight: Tensor) -> Tensor:
    """The whole weight in main memory, in the first process; nothing in the others, which only give their shares."""
    if not isinstance(weight, DTensor):
        return weight
    tensor: Tensor = weight.full_tensor()
    return tensor.cpu() if torch.distributed.get_rank() == 0 else tensor.new_empty(0, device="cpu")


def whole_model(model: PreTrainedModel) -> PreTrainedModel | None:
    """A model in main memory with the whole weights, adapters apart as they were; None in all but the first process."""
    weights = {name: kept(weight) for name, weight in model.state_dict().items()}
    if torch.distributed.get_rank() != 0:
        return None
    with torch.device("meta"):  # the structure without memory: the weights are there already
        copied = auto_class(model.config).from_config(model.config, dtype=torch.float32)
        if hasattr(model, "peft_config"):
            from peft import get_peft_model

            copied = get_peft_model(copied, copy.deepcopy(model.peft_config["default"]))
    copied.load_state_dict(weights, assign=True)
    copied.tie_weights()
    copied.generation_config = model.generation_config
    return copied
