"""Calls of models that differ in what their `forward` takes."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel


def taken(model: PreTrainedModel) -> frozenset[str]:
    """Names of what a model's forward pass takes, its adapters' aside."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    return frozenset(inspect.signature(type(plain).forward).parameters)


def given(model: PreTrainedModel, **arguments: Any) -> dict[str, Any]:
    """Those of `arguments` that the model takes."""
    names = taken(model)
    return {name: value for name, value in arguments.items() if name in names}


def logits_of(model: PreTrainedModel, ids_RL: Tensor, keep: int) -> Tensor:
    """The logits of a plain pass of rows without padding, those of the last `keep` tokens at least."""
    logits_RLV: Tensor = model(input_ids=ids_RL, **given(model, logits_to_keep=keep, use_cache=False)).logits
    return logits_RLV
