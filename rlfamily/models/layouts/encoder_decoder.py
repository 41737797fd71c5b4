"""Models with an encoder: each distinct prompt is read once, and rows side by side share what was made of it.

A first pass reads the prompts and takes what begins every row. From it come each decoder layer's keys and values of the
prompts, which rows then index: they are never computed anew for a row. Prompts are padded on the right, as positions
count from their beginning; rows need no padding on the left, as all begin with the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel

from rlfamily.models.batching import RowTensors, spans
from rlfamily.models.layouts.calls import given, start_ids
from rlfamily.models.layouts.ragged import Ragged
from rlfamily.models.layouts.session import last_logits, selected
from rlfamily.models.layouts.shared_prefix import new_prompts
from rlfamily.models.loaded import Loaded


class EncoderDecoderLayout:
    """Prompts as one rectangle, `ends` behind each; rows as another, behind what begins every row."""

    def __init__(self, ends: Sequence[int]) -> None:
        self.ends = ends

    def cut(self, rows: RowTensors, budget: int, start: int, stop: int) -> list[slice]:
        """Rows `start` to `stop` as passes of at most `budget` tokens, padding included; a shared prompt once."""
        head, tail = rows.prompt_ids_NP.shape[1] + len(self.ends), rows.ids_NT.shape[1]
        behind = [tail + head * new for new in new_prompts(rows).tolist()]
        return spans([head + tail] * len(rows), behind, budget, start, stop)

    def logits(self, model: PreTrainedModel, rows: RowTensors) -> list[Tensor]:
        """Of the prompts' pass, which is not of the rows, and logits_NLV of the rows up to their last but one token."""
        first_N = new_prompts(rows)
        group_N = first_N.cumsum(0) - 1
        prompts = _Prompts(model, rows[first_N], self.ends)
        starts_NS = rows.ids_NT.new_tensor(start_ids(model)).expand(len(rows), -1)
        crossed = DynamicCache()
        for layer, states in enumerate(prompts.cache.cross_attention_cache.layers):
            crossed.update(states.keys[group_N], states.values[group_N], layer)
        prompts.cache = EncoderDecoderCache(DynamicCache(config=model.config), crossed)
        prompts.states_RPD, prompts.mask_RP = prompts.states_RPD[group_N], prompts.mask_RP[group_N]
        return [prompts.logits_RLV, prompts.decode(torch.cat([starts_NS, rows.ids_NT[:, :-1]], 1))]

    def at_tokens(self, states: Sequence[Tensor], rows: RowTensors) -> Tensor:
        """(C, ...) of the rows' states, of which the last T are those of tokens."""
        return states[-1][:, -rows.ids_NT.shape[1]:][rows.mask_NT > 0]

    def session(self, loaded: Loaded, prompts: RowTensors, group_R: Tensor) -> EncoderDecoderSession:
        """Rows that grow; row r starts from prompt `group_R[r]`."""
        return EncoderDecoderSession(loaded, prompts, group_R, self.ends)


def encoder_inputs(rows: RowTensors, ends: Sequence[int]) -> dict[str, Tensor]:
    """What an encoder reads of N rows: each prompt with `ends` behind it, padded on the right, and the mask."""
    real_NP = rows.prompt_mask_NP > 0
    lengths_N = real_NP.sum(1)
    grid = Ragged(lengths_N + len(ends))
    ids_NP = rows.prompt_ids_NP.new_zeros(grid.count, grid.width)
    ids_NP[grid.place_W < lengths_N[:, None]] = rows.prompt_ids_NP[real_NP]
    ids_NP[grid.real_RW & (grid.place_W >= lengths_N[:, None])] = ids_NP.new_tensor(ends).repeat(grid.count)
    return {"input_ids": ids_NP, "attention_mask": grid.real_RW.long()}


class _Prompts:
    """Prompts that a model has read: the encoder's states, what begins every row, and a cache with both."""

    def __init__(self, model: PreTrainedModel, rows: RowTensors, ends: Sequence[int]) -> None:
        self.model = model
        read = encoder_inputs(rows, ends)
        starts_RL = rows.ids_NT.new_tensor(start_ids(model)).expand(len(rows), -1)
        output = model(**read, decoder_input_ids=starts_RL, **given(model, use_cache=True))
        self.mask_RP, self.states_RPD = read["attention_mask"], output.encoder_last_hidden_state
        self.cache, self.logits_RLV = output.past_key_values, output.logits

    def decode(self, ids_RL: Tensor) -> Tensor:
        """logits_RLV of tokens behind those that the cache has."""
        logits_RLV: Tensor = self.model(
            encoder_outputs=(self.states_RPD,), attention_mask=self.mask_RP, decoder_input_ids=ids_RL,
            past_key_values=self.cache, **given(self.model, use_cache=True)).logits
        return logits_RLV


class EncoderDecoderSession:
    """A cache of transformers' own. Each row has a copy of its prompt's keys and values, made once."""

    def __init__(self, loaded: Loaded, rows: RowTensors, group_R: Tensor, ends: Sequence[int]) -> None:
        self.loaded = loaded
        with loaded.autocast():
            self.prompts = _Prompts(loaded.model, rows, ends)
        self.logits_RV = self.prompts.logits_RLV[:, -1]
        self.select(group_R)

    def step(self, token_R: Tensor) -> Tensor:
        """Append a token to every row; the new `logits_RV`."""
        with self.loaded.autocast():
            self.logits_RV = self.prompts.decode(token_R[:, None])[:, -1]
        return self.logits_RV

    def extend(self, ids_RL: Tensor, count_R: Tensor) -> Tensor:
        """Append the first `count_R[r]` of `ids_RL[r]` to row r, in one pass; logits_RLV behind each of them.

        A row that got fewer than others must be dropped next: its cache has what it did not get.
        """
        with self.loaded.autocast():
            logits_RLV = self.prompts.decode(ids_RL)
        self.logits_RV = last_logits(logits_RLV, count_R, self.logits_RV)
        return logits_RLV

    def select(self, index_R: Tensor) -> None:
        """Make row r what row `index_R[r]` was."""
        prompts = self.prompts
        for cache in (prompts.cache.self_attention_cache, prompts.cache.cross_attention_cache):
            for layer in cache.layers:
                layer.keys, layer.values = selected(layer.keys, index_R), selected(layer.values, index_R)
        prompts.states_RPD, prompts.mask_RP = selected(prompts.states_RPD, index_R), selected(prompts.mask_RP, index_R)
        self.logits_RV = self.logits_RV[index_R]
