"""Each row by itself, without padding and without a cache: what a plain pass gives, for any model, slowly.

For models to which padding matters, or whose cache cannot follow rows that are dropped or forked.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlfamily.models.batching import RowTensors
from rlfamily.models.layouts.calls import logits_of
from rlfamily.models.layouts.session import last_logits
from rlfamily.models.loaded import Loaded


class SingleLayout:
    """Rows one at a time. `ends` follow every prompt in an encoder."""

    def __init__(self, ends: Sequence[int] = ()) -> None:
        self.ends = ends

    def cut(self, rows: RowTensors, budget: int, start: int, stop: int) -> list[slice]:
        """Each row is a pass, whatever the budget: processes that share a model make as many passes each."""
        return [slice(row, row + 1) for row in range(start, stop)]

    def logits(self, model: PreTrainedModel, rows: RowTensors) -> list[Tensor]:
        """logits_1LV of each row, from what its first token is predicted from to its last token."""
        return [logits_of(model, prompt_P[kept_P > 0], ids_T[mask_T > 0], self.ends)
                for prompt_P, kept_P, ids_T, mask_T in zip(
                    rows.prompt_ids_NP, rows.prompt_mask_NP, rows.ids_NT, rows.mask_NT, strict=True)]

    def at_tokens(self, states: Sequence[Tensor], rows: RowTensors) -> Tensor:
        """(C, ...) of states that end with each row's last token."""
        counts = rows.mask_NT.sum(1).long().tolist()
        return torch.cat([state[0, -count - 1:-1] for state, count in zip(states, counts, strict=True)])

    def session(self, loaded: Loaded, prompts: RowTensors, group_R: Tensor) -> SingleSession:
        """Rows that grow; row r starts from prompt `group_R[r]`."""
        return SingleSession(loaded, prompts, group_R, self.ends)


class SingleSession:
    """Every row is passed whole at every step, alone: even rows of one length beside it change what some models say."""

    def __init__(self, loaded: Loaded, rows: RowTensors, group_R: Tensor, ends: Sequence[int]) -> None:
        self.loaded, self.ends = loaded, ends
        self.prompts = [ids_P[mask_P > 0] for ids_P, mask_P in zip(
            rows.prompt_ids_NP, rows.prompt_mask_NP, strict=True)]
        self.ids = [prompt_P[:0] for prompt_P in self.prompts]
        self.logits_RV = self._forward()
        self.select(group_R)

    def step(self, token_R: Tensor) -> Tensor:
        """Append a token to every row; the new `logits_RV`."""
        self.ids = [torch.cat([ids_T, token[None]]) for ids_T, token in zip(self.ids, token_R, strict=True)]
        self.logits_RV = self._forward()
        return self.logits_RV

    def extend(self, ids_RL: Tensor, count_R: Tensor) -> Tensor:
        """Append the first `count_R[r]` of `ids_RL[r]` to row r; logits_RLV behind each of them, 0 elsewhere."""
        counts, width = count_R.tolist(), ids_RL.shape[1]
        self.ids = [torch.cat([own_T, new_L[:count]])
                    for own_T, new_L, count in zip(self.ids, ids_RL, counts, strict=True)]
        logits_RLV = self.logits_RV.new_zeros(len(counts), width, self.logits_RV.shape[1])
        for row, count in enumerate(counts):
            if count:
                logits_RLV[row, :count] = self._row(row)[0, -count:]
        self.logits_RV = last_logits(logits_RLV, count_R, self.logits_RV)
        return logits_RLV

    def select(self, index_R: Tensor) -> None:
        """Make row r what row `index_R[r]` was."""
        self.prompts, self.ids = ([part[row] for row in index_R.tolist()] for part in (self.prompts, self.ids))
        self.logits_RV = self.logits_RV[index_R]

    def _forward(self) -> Tensor:
        return torch.cat([self._row(row)[:, -1] for row in range(len(self.ids))])

    def _row(self, row: int) -> Tensor:
        with self.loaded.autocast():
            return logits_of(self.loaded.model, self.prompts[row], self.ids[row], self.ends)
