"""Rows of token ids to tensors, and what a model says of them. How they lie in a pass is for `layouts` to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

Tokens = Sequence[int]


@dataclass(frozen=True)
class Rows:
    """N prompt-completion pairs as token ids. A completion holds its EOS when it has one."""

    prompts: Sequence[Tokens]
    completions: Sequence[Tokens]

    def __len__(self) -> int:
        return len(self.prompts)


@dataclass(frozen=True)
class RowTensors:
    """N rows: prompts of P tokens at most, padded on the left, completions of T at most, padded on the right.

    Masks are 1 on real tokens, in prompts as integers. `min_new_tokens` says how the rows were drawn: the model's ends,
    and those of `stop_ids`, were excluded from the distribution of that many first tokens.
    """

    prompt_ids_NP: Tensor
    prompt_mask_NP: Tensor
    ids_NT: Tensor
    mask_NT: Tensor
    min_new_tokens: int = 0
    stop_ids: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.ids_NT)

    def __getitem__(self, part: slice | Tensor) -> RowTensors:
        return replace(self, prompt_ids_NP=self.prompt_ids_NP[part], prompt_mask_NP=self.prompt_mask_NP[part],
                       ids_NT=self.ids_NT[part], mask_NT=self.mask_NT[part])

    def answered_by(self, other_N: Tensor) -> RowTensors:
        """Each prompt with the completion of row `other_N[n]`."""
        return replace(self, ids_NT=self.ids_NT[other_N], mask_NT=self.mask_NT[other_N])

    def to(self, device: torch.device) -> RowTensors:
        """The same rows on a device."""
        return replace(self, prompt_ids_NP=self.prompt_ids_NP.to(device), ids_NT=self.ids_NT.to(device),
                       prompt_mask_NP=self.prompt_mask_NP.to(device), mask_NT=self.mask_NT.to(device))


class Forward(NamedTuple):
    """What a model says of N rows. All but the entropy are leaves: a loss is a function of them.

    `entropy_N` is the mean token entropy of each row, for the record; zeros where there is no distribution.
    A policy gives `logp_NT`, and with a value head `values_NT`, a critic's estimate at the state before each token
    (both 0 on pads), or `prompt_values_N`, its estimate of each row's prompt. A reward model gives `scores_N`, a value
    function `values_NS`, V of the S = T + 1 states of a row, its prompt and complete response included (0 on pads).
    `mismatched_logp_NT` come from a forward of other rows.
    """

    entropy_N: Tensor
    logp_NT: Tensor | None = None
    scores_N: Tensor | None = None
    values_NT: Tensor | None = None
    prompt_values_N: Tensor | None = None
    mismatched_logp_NT: Tensor | None = None
    values_NS: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """All that is there, by name."""
        return {name: tensor for name, tensor in self._asdict().items() if tensor is not None}

    def leaves(self) -> dict[str, Tensor]:
        """What carries a gradient into the model, by name."""
        return {name: tensor for name, tensor in self.tensors().items() if name != "entropy_N"}


def mask_of(completions: Sequence[Tokens], width: int) -> Tensor:
    """mask_NT: 1 on every completion token, from lengths and never from ids (a pad may be an EOS)."""
    lengths_N1 = torch.tensor([len(row) for row in completions]).unsqueeze(1)
    return (torch.arange(width) < lengths_N1).float()


def pad(rows: Rows, pad_id: int) -> RowTensors:
    """Pad to the longest prompt and the longest completion of the rows."""
    prompt_width = max(map(len, rows.prompts))
    width = max(1, *map(len, rows.completions))
    prompts = [[pad_id] * (prompt_width - len(prompt)) + [*prompt] for prompt in rows.prompts]
    completions = [[*completion] + [pad_id] * (width - len(completion)) for completion in rows.completions]
    return RowTensors(torch.tensor(prompts, dtype=torch.long), mask_of(rows.prompts, prompt_width).flip(1).long(),
                      torch.tensor(completions), mask_of(rows.completions, width))


def spans(first: Sequence[int], behind: Sequence[int], budget: int, start: int, stop: int) -> list[slice]:
    """Cut rows `start` to `stop` into passes of at most `budget` tokens each, at least one row.

    Row r costs `first[r]` tokens where it begins a pass, `behind[r]` behind the row before it.
    """
    cuts, used = [start], 0
    for row in range(start, stop):
        cost = first[row] if row == cuts[-1] else behind[row]
        if row > cuts[-1] and used + cost > budget:
            cuts.append(row)
            used, cost = 0, first[row]
        used += cost
    return [slice(low, high) for low, high in zip(cuts, [*cuts[1:], stop], strict=True) if low < high]
