"""Rows side by side share their prompt, and nothing is padded: passes as in `shared_prefix`, and rows that grow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel

from rlfamily.models.batching import RowTensors, spans
from rlfamily.models.layouts.ragged import Ragged
from rlfamily.models.layouts.session import last_logits, selected
from rlfamily.models.layouts.shared_prefix import forward, new_prompts, pack
from rlfamily.models.loaded import Loaded

CAPACITY = 16  # tokens of a row to make room for at first; it doubles, so that what is read lies close together


class PackedLayout:
    """Rows laid end to end, each behind its prompt, which rows side by side have once."""

    ends: Sequence[int] = ()

    def cut(self, rows: RowTensors, budget: int, start: int, stop: int) -> list[slice]:
        """Rows `start` to `stop` as passes of at most `budget` tokens; a prompt that rows side by side have, once."""
        heads, tails = rows.prompt_mask_NP.sum(1), rows.mask_NT.sum(1).long()
        return spans((heads + tails).tolist(), (heads * new_prompts(rows) + tails).tolist(), budget, start, stop)

    def logits(self, model: PreTrainedModel, rows: RowTensors) -> list[Tensor]:
        """logits_1CV of the completion tokens."""
        packed = pack(rows)
        return [forward(model, packed.ids_M, packed.positions_M, packed.before_C, packed)]

    def at_tokens(self, states: Sequence[Tensor], rows: RowTensors) -> Tensor:
        """The model gave no others."""
        return states[0][0]

    def session(self, loaded: Loaded, prompts: RowTensors, group_R: Tensor) -> PackedSession:
        """Rows that grow; row r starts from prompt `group_R[r]`."""
        return PackedSession(loaded, prompts, group_R)


class PackedSession:
    """Rows of a group read their prompt's keys and values in one place; each has its own for the tokens after it."""

    def __init__(self, loaded: Loaded, rows: RowTensors, group_R: Tensor) -> None:
        self.loaded, self.group_R = loaded, group_R
        packed = replace(pack(rows), prompt_states=[])
        ends_B = packed.prompts.starts_R + packed.prompts.lengths_R - 1
        with loaded.autocast():
            logits_BV = forward(loaded.model, packed.ids_M, packed.positions_M, ends_B, packed)[0]
        self.logits_RV, self.position_R = logits_BV[group_R], packed.prompts.lengths_R[group_R]
        self.prompts, states = packed.prompts, packed.prompt_states or []
        # Transposed once: scores are a product with it at every step.
        self.prompt_keys = [key_BHPD.transpose(2, 3).contiguous() for key_BHPD, _ in states]
        self.prompt_values = [value_BHPD.contiguous() for _, value_BHPD in states]
        heads, width = states[0][0].shape[1], states[0][0].shape[3]
        self.keys, self.values = ([key_BHPD.new_empty(len(group_R), heads, CAPACITY, width) for key_BHPD, _ in states]
                                  for _ in range(2))
        self.length, self.fresh = 0, 1  # places after the prompt, the same for all rows; places that a pass fills
        self.gaps_RC: Tensor | None = None  # places that hold nothing of their row; None where all are filled
        self.bias = self._bias()
        self._place_rows()

    def step(self, token_R: Tensor) -> Tensor:
        """Append a token to every row; the new `logits_RV`."""
        self.logits_RV = self._pass(token_R, self.position_R, 1)
        self.position_R = self.position_R + 1
        if self.gaps_RC is not None:
            self.gaps_RC = pad(self.gaps_RC, (0, 1))
        return self.logits_RV

    def extend(self, ids_RL: Tensor, count_R: Tensor) -> Tensor:
        """Append the first `count_R[r]` of `ids_RL[r]` to row r, in one pass; logits_RLV behind each of them."""
        rows, width = ids_RL.shape
        place_L = torch.arange(width, device=ids_RL.device)
        logits = self._pass(ids_RL.flatten(), (self.position_R[:, None] + place_L).flatten(), width)
        logits_RLV = logits.view(rows, width, -1)
        gaps_RL = place_L >= count_R[:, None]
        if self.gaps_RC is not None or gaps_RL.any():
            before = gaps_RL.new_zeros(rows, self.length - width) if self.gaps_RC is None else self.gaps_RC
            self.gaps_RC = torch.cat([before, gaps_RL], 1)
        self.position_R = self.position_R + count_R
        self.logits_RV = last_logits(logits_RLV, count_R, self.logits_RV)
        return logits_RLV

    def _pass(self, ids_M: Tensor, positions_M: Tensor, fresh: int) -> Tensor:
        """logits_MV of `fresh` more tokens of every row."""
        while self.length + fresh > self.keys[0].shape[2]:
            self.keys, self.values = ([torch.cat([part, torch.empty_like(part)], 2) for part in parts]
                                      for parts in (self.keys, self.values))
        self.fresh = fresh
        every_M = torch.arange(len(ids_M), device=ids_M.device)
        with self.loaded.autocast():
            logits_MV = forward(self.loaded.model, ids_M, positions_M, every_M, self)[0]
        self.length += fresh
        return logits_MV

    def select(self, index_R: Tensor) -> None:
        """Make row r what row `index_R[r]` was."""
        self.keys, self.values = ([selected(part, index_R, self.length) for part in parts]
                                  for parts in (self.keys, self.values))
        self.logits_RV, self.position_R, self.group_R = (
            part[index_R] for part in (self.logits_RV, self.position_R, self.group_R))
        if self.gaps_RC is not None:
            self.gaps_RC = self.gaps_RC[index_R]
            self.gaps_RC = self.gaps_RC if self.gaps_RC.any() else None
        self._drop_prompts()
        self._place_rows()

    def attend(self, layer: int, query_MHD: Tensor, key_MHD: Tensor, value_MHD: Tensor, scale: float) -> Tensor:
        """Attention of each row's new tokens to its prompt and to all of its own tokens up to them."""
        fresh, count = self.fresh, self.length + self.fresh
        rows, heads, width = len(key_MHD) // fresh, key_MHD.shape[1], key_MHD.shape[2]
        keys, values = self.keys[layer][:, :, :count], self.values[layer][:, :, :count]
        keys[:, :, -fresh:], values[:, :, -fresh:] = (
            part.view(rows, fresh, heads, width).transpose(1, 2) for part in (key_MHD, value_MHD))
        # (R, H, Q, D): Q queries share a key head, those of a query head's new tokens side by side
        query = (query_MHD * scale).view(rows, fresh, heads, -1, width).permute(0, 2, 3, 1, 4).flatten(2, 3)
        prompt_scores = self._of_prompts(query) @ self.prompt_keys[layer]
        if self.bias is not None:
            prompt_scores = prompt_scores + self.bias
        own_scores = query @ keys.transpose(2, 3)
        for hidden in self._hidden(count, query.shape[2] // fresh):
            own_scores = own_scores.masked_fill(hidden, -torch.inf)
        weights = torch.cat([self._of_rows(prompt_scores), own_scores], 3).softmax(3)
        prompt_weights, own_weights = torch.split(weights, [self.prompts.width, count], 3)
        output = self._of_rows(self._of_prompts(prompt_weights) @ self.prompt_values[layer]) + own_weights @ values
        return output.view(rows, heads, -1, fresh, width).permute(0, 3, 1, 2, 4).reshape(rows * fresh, -1, width)

    def _hidden(self, count: int, queries: int) -> Iterator[Tensor]:
        """What new tokens must not see among their row's own places: later ones, and those that hold nothing."""
        if self.fresh > 1:
            place_L = torch.arange(self.fresh, device=self.position_R.device).repeat(queries)[:, None]
            yield torch.arange(count, device=self.position_R.device) > self.length + place_L
        if self.gaps_RC is not None:
            yield pad(self.gaps_RC, (0, self.fresh))[:, None, None]

    def _place_rows(self) -> None:
        """Seats (B, S): rows of the same prompt side by side, so that one product serves them all."""
        counts_B = self.group_R.bincount(minlength=self.prompts.count)
        order_R = self.group_R.argsort(stable=True)
        self.seats = Ragged(counts_B)
        self.row_of_seat = order_R[self.seats.source]
        self.seat_of_row = self.seats.cells_M[order_R.argsort()]
        self.in_order = self.seats.even and bool((order_R[1:] > order_R[:-1]).all())

    def _bias(self) -> Tensor | None:
        """What the padding of prompts adds to scores; None where there is none."""
        return None if self.prompts.bias is None else self.prompts.bias.to(self.keys[0].dtype)

    def _of_prompts(self, rows_RHQW: Tensor) -> Tensor:
        """(B, H, S*Q, W): what rows hold, at the seats of their prompts."""
        seats = rows_RHQW if self.in_order else rows_RHQW.index_select(0, self.row_of_seat)
        return torch.unflatten(seats, 0, (self.prompts.count, self.seats.width)).transpose(1, 2).flatten(2, 3)

    def _of_rows(self, prompts_BHSW: Tensor) -> Tensor:
        """(R, H, Q, W): `_of_prompts` undone."""
        seats = torch.unflatten(prompts_BHSW, 2, (self.seats.width, -1)).transpose(1, 2).flatten(0, 1)
        return seats if self.in_order else seats.index_select(0, self.seat_of_row)

    def _drop_prompts(self) -> None:
        """Forget prompts that no row reads, once they are half of all."""
        used_B = torch.unique(self.group_R)
        if 2 * len(used_B) > self.prompts.count:
            return
        self.prompt_keys, self.prompt_values = ([part[used_B] for part in parts]
                                                for parts in (self.prompt_keys, self.prompt_values))
        self.prompts = Ragged(self.prompts.lengths_R[used_B])
        self.bias = self._bias()
        self.prompt_keys = [part[..., :self.prompts.width].contiguous() for part in self.prompt_keys]
        self.prompt_values = [part[:, :, :self.prompts.width].contiguous() for part in self.prompt_values]
        self.group_R = torch.searchsorted(used_B, self.group_R)
