"""Calls of models that differ in what their `forward` takes: a prompt before its row, or apart, for an encoder."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
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


def logits_of(model: PreTrainedModel, prompt_P: Tensor, own_T: Tensor, ends: Sequence[int]) -> Tensor:
    """logits_1LV of a plain pass of one row, where nothing is padded, packed or cached.

    They end with those of its last token; T + 1 at least, the first of which its first token is predicted from.
    """
    if model.config.is_encoder_decoder:
        prompt, first = torch.cat([prompt_P, prompt_P.new_tensor(ends)]), own_T.new_tensor(start_ids(model))
        given_ids = {"input_ids": prompt[None], "decoder_input_ids": torch.cat([first, own_T])[None]}
    else:
        given_ids = {"input_ids": torch.cat([prompt_P, own_T])[None]}
    logits_1LV: Tensor = model(
        **given_ids, **given(model, logits_to_keep=len(own_T) + 1, use_cache=False)).logits
    return logits_1LV


def start_ids(model: PreTrainedModel) -> list[int]:
    """What every row of a decoder begins with, before its first token; from the model's own settings of generation."""
    generation = getattr(model, "generation_config", None)
    start, forced = (getattr(generation, name, None) for name in ("decoder_start_token_id", "forced_bos_token_id"))
    if start is None:
        start = getattr(model.config, "decoder_start_token_id", None)
    if start is None:
        raise ValueError("it names no decoder_start_token_id")
    return [int(start)] if forced is None else [int(start), int(forced)]


def added_tokens(model: PreTrainedModel, ends: Sequence[int]) -> int:
    """The most that an encoder or its decoder sees beside a prompt's and a row's own tokens."""
    return max(len(ends), len(start_ids(model)) - 1) if model.config.is_encoder_decoder else 0
