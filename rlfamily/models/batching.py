"""Token lists to padded tensors: prompts padded on the left, completions on the right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
class Padded:
    """ids_NL and attention_NL cover prompt and completion (L = P + T); mask_NT covers the completion alone.

    `min_new_tokens` says how the rows were drawn: EOS was excluded from the distribution of that many first tokens.
    """

    ids_NL: Tensor
    attention_NL: Tensor
    positions_NL: Tensor
    mask_NT: Tensor
    min_new_tokens: int = 0

    def __getitem__(self, part: slice | Tensor) -> Padded:
        return Padded(self.ids_NL[part], self.attention_NL[part], self.positions_NL[part], self.mask_NT[part],
                      self.min_new_tokens)

    def to(self, device: torch.device) -> Padded:
        """The same rows on a device."""
        return Padded(self.ids_NL.to(device), self.attention_NL.to(device), self.positions_NL.to(device),
                      self.mask_NT.to(device), self.min_new_tokens)

    @property
    def prompt_width(self) -> int:
        """P: where completions start."""
        return self.ids_NL.shape[1] - self.mask_NT.shape[1]

    @property
    def new_prompt_N(self) -> Tensor:
        """True where a row's prompt is not that of the row before it."""
        prompts = self.ids_NL[:, :self.prompt_width], self.attention_NL[:, :self.prompt_width]
        same_N = torch.stack([(part[1:] == part[:-1]).all(1) for part in prompts]).all(0)
        return torch.cat([same_N.new_ones(1), ~same_N])

    @property
    def completion_ids_NT(self) -> Tensor:
        """The completion's token ids, pads included."""
        return self.ids_NL[:, self.prompt_width:]


class Forward(NamedTuple):
    """`leaf` is what the loss is a function of: logp_NT of a policy, score_N of a reward model.

    `entropy_N` is the mean token entropy of each row, for the record; zeros where there is no distribution.
    `values_NT` is a critic's estimate at the state before each token, 0 on pads; None without a value head.
    """

    leaf: Tensor
    entropy_N: Tensor
    values_NT: Tensor | None = None


def mask_of(completions: Sequence[Tokens], width: int) -> Tensor:
    """mask_NT: 1 on every completion token, from lengths and never from ids (a pad may be an EOS)."""
    lengths_N1 = torch.tensor([len(row) for row in completions]).unsqueeze(1)
    return (torch.arange(width) < lengths_N1).float()


def pad(rows: Rows, pad_id: int) -> Padded:
    """Pad to the longest prompt and completion of the rows; positions count real tokens only."""
    prompt_width = max(len(prompt) for prompt in rows.prompts)
    width = max(1, max(len(completion) for completion in rows.completions))
    ids, attention = [], []
    for prompt, completion in zip(rows.prompts, rows.completions, strict=True):
        left, right = prompt_width - len(prompt), width - len(completion)
        ids.append([pad_id] * left + [*prompt, *completion] + [pad_id] * right)
        attention.append([0] * left + [1] * (len(prompt) + len(completion)) + [0] * right)
    attention_NL = torch.tensor(attention)
    return Padded(torch.tensor(ids), attention_NL, positions(attention_NL), mask_of(rows.completions, width))


def positions(attention_NL: Tensor) -> Tensor:
    """Position of each token among the real ones, so that log-probs do not depend on the padding."""
    return (attention_NL.cumsum(1) - 1).clamp(min=0)


def spans(rows: Padded, budget: int, shared: bool, start: int, stop: int) -> list[slice]:
    """Cut rows `start` to `stop` into passes of at most `budget` tokens each, at least one row.

    With `shared`, padding is free and a prompt that rows side by side have counts once a pass; else a row counts whole.
    """
    tails = (rows.mask_NT.sum(1) if shared else torch.zeros(len(rows.ids_NL))).long().tolist()
    heads = rows.attention_NL[:, :rows.prompt_width].sum(1).tolist() if shared else [rows.ids_NL.shape[1]] * len(tails)
    new = rows.new_prompt_N.tolist() if shared else [True] * len(tails)
    cuts, used = [start], 0
    for row in range(start, stop):
        cost = tails[row] + (heads[row] if new[row] or row == cuts[-1] else 0)
        if row > cuts[-1] and used + cost > budget:
            cuts.append(row)
            used, cost = 0, tails[row] + heads[row]
        used += cost
    return [slice(low, high) for low, high in zip(cuts, [*cuts[1:], stop], strict=True) if low < high]
