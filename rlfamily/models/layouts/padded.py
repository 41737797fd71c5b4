"""A rectangle: every row has its own copy of the prompt, padded on the left, and its completion, padded on the right.

For models whose attention is their own. Pads are masked, and positions count real tokens only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from rlfamily.models.batching import RowTensors, spans
from rlfamily.models.layouts.calls import given, taken
from rlfamily.models.layouts.session import last_logits
from rlfamily.models.loaded import Loaded


class PaddedLayout:
    """Rows as rectangles of length P + T."""

    ends: Sequence[int] = ()

    def cut(self, rows: RowTensors, budget: int, start: int, stop: int) -> list[slice]:
        """Rows `start` to `stop` as passes of at most `budget` tokens, padding included."""
        lengths = [rows.prompt_ids_NP.shape[1] + rows.ids_NT.shape[1]] * len(rows)
        return spans(lengths, lengths, budget, start, stop)

    def logits(self, model: PreTrainedModel, rows: RowTensors) -> list[Tensor]:
        """logits_NSV at positions P-1 .. P+T-1 of each row, at least."""
        keep = rows.ids_NT.shape[1] + 1
        return [model(**given(model, **inputs(rows), logits_to_keep=keep, use_cache=False)).logits]

    def at_tokens(self, states: Sequence[Tensor], rows: RowTensors) -> Tensor:
        """(C, ...) of states that end with position P+T-1 of each row."""
        return states[0][:, -rows.ids_NT.shape[1] - 1:-1][rows.mask_NT > 0]

    def session(self, loaded: Loaded, prompts: RowTensors, group_R: Tensor) -> PaddedSession:
        """Rows that grow; row r starts from prompt `group_R[r]`."""
        return PaddedSession(loaded, prompts, group_R)


def inputs(rows: RowTensors) -> dict[str, Tensor]:
    """What a model takes: ids, mask and positions, all (N, P + T)."""
    attention_NL = torch.cat([rows.prompt_mask_NP, rows.mask_NT.long()], 1)
    return {"input_ids": torch.cat([rows.prompt_ids_NP, rows.ids_NT], 1), "attention_mask": attention_NL,
            "position_ids": positions(attention_NL)}


def last_states(backbone: nn.Module, rows: RowTensors) -> Tensor:
    """hidden_ND at the last real token of each row."""
    given = inputs(rows)
    hidden_NLD: Tensor = backbone(**given).last_hidden_state
    attention_NL = given["attention_mask"]
    last_N = (attention_NL * torch.arange(attention_NL.shape[1], device=attention_NL.device)).argmax(1)
    return hidden_NLD[torch.arange(len(last_N), device=last_N.device), last_N]


def positions(attention_NL: Tensor) -> Tensor:
    """Position of each token among the real ones, so that log-probs do not depend on the padding."""
    return (attention_NL.cumsum(1) - 1).clamp(min=0)


class PaddedSession:
    """A cache of transformers' own, prompts copied to their rows."""

    def __init__(self, loaded: Loaded, rows: RowTensors, group_R: Tensor) -> None:
        self.loaded, self.cache = loaded, DynamicCache(config=loaded.model.config)
        self.cache_name = "past_key_values" if "past_key_values" in taken(loaded.model) else "cache_params"
        self.attention_RL = rows.prompt_mask_NP
        self.logits_RV = self._forward(rows.prompt_ids_NP, positions(rows.prompt_mask_NP), keep=1)[:, -1]
        self.select(group_R)

    def step(self, token_R: Tensor) -> Tensor:
        """Append a token to every row; the new `logits_RV`."""
        self.attention_RL = torch.cat([self.attention_RL, self.attention_RL.new_ones(len(token_R), 1)], 1)
        self.logits_RV = self._forward(token_R[:, None], self.attention_RL.sum(1, keepdim=True) - 1)[:, -1]
        return self.logits_RV

    def extend(self, ids_RL: Tensor, count_R: Tensor) -> Tensor:
        """Append the first `count_R[r]` of `ids_RL[r]` to row r, in one pass; logits_RLV behind each of them."""
        place_L = torch.arange(ids_RL.shape[1], device=ids_RL.device)
        positions_RL = self.attention_RL.sum(1, keepdim=True) + place_L
        self.attention_RL = torch.cat([self.attention_RL, (place_L < count_R[:, None]).long()], 1)
        logits_RLV = self._forward(ids_RL, positions_RL)
        self.logits_RV = last_logits(logits_RLV, count_R, self.logits_RV)
        return logits_RLV

    def select(self, index_R: Tensor) -> None:
        """Make row r what row `index_R[r]` was."""
        self.cache.reorder_cache(index_R)  # what layers of every kind have: keys and values, and states
        self.attention_RL, self.logits_RV = self.attention_RL[index_R], self.logits_RV[index_R]

    def _forward(self, ids_RL: Tensor, positions_RL: Tensor, keep: int | None = None) -> Tensor:
        """logits_RLV of the last `keep` tokens at least, or of all."""
        with self.loaded.autocast():
            output = self.loaded.model(**given(
                self.loaded.model, input_ids=ids_RL, attention_mask=self.attention_RL, position_ids=positions_RL,
                **{self.cache_name: self.cache}, use_cache=True, logits_to_keep=keep or ids_RL.shape[1]))
        logits_RLV: Tensor = output.logits
        return logits_RLV
