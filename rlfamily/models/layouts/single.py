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

    def select(self, index_R: Tensor) -> None:
        """Make row r what row `index_R[r]` was."""
        self.prompts, self.ids = ([part[row] for row in index_R.tolist()] for part in (self.prompts, self.ids))
        self.logits_RV = self.logits_RV[index_R]

    def _forward(self) -> Tensor:
        with self.loaded.autocast():
            return torch.cat([logits_of(self.loaded.model, prompt_P, ids_T, self.ends)[:, -1]
                              for prompt_P, ids_T in zip(self.prompts, self.ids, strict=True)])
