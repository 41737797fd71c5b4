"""Does a layout give what a plain pass gives? Asked of every loaded model, on two short rows of different lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlfamily.models.batching import Rows, pad
from rlfamily.models.layouts.calls import logits_of

if TYPE_CHECKING:
    from rlfamily.models.layouts import Layout
    from rlfamily.models.loaded import Loaded

CLOSE = 1e-3
"""Largest difference of a log-prob, in standard deviations of the logits: rounding in fp32 stays well below it.

Of a model with a single logit, a value, it is that of the value: its log-prob is always 0.
"""

PROMPTS, COMPLETIONS = [[3, 9, 5, 8, 4], [7, 6]], [[10, 4, 11], [5, 12, 3, 9]]
MOVES = ([2, 0], [1, 1])  # after each token in decoding: what each row becomes; dropped, moved and forked


def plain(loaded: Loaded, ends: Sequence[int]) -> list[Tensor]:
    """logits_TV that the tokens of each row are predicted from, in a pass of its own; `ends` follow its prompt."""
    prompts, completions = ([torch.tensor(row, device=loaded.device) for row in _rows(loaded, rows)]
                            for rows in (PROMPTS, COMPLETIONS))
    return [logits_of(loaded.model, prompt_P, own_T, ends)[0, -len(own_T) - 1:-1].float()
            for prompt_P, own_T in zip(prompts, completions, strict=True)]


def differs(layout: Layout, loaded: Loaded, expected: list[Tensor]) -> str:
    """What differs from a plain pass: "" where nothing does."""
    prompts, completions = _rows(loaded, PROMPTS), _rows(loaded, COMPLETIONS)
    rows = pad(Rows(prompts, completions), 0).to(loaded.device)
    updates = layout.at_tokens(layout.logits(loaded.model, rows), rows)
    if not _close(updates, torch.cat(expected)):
        return "the log-probs of padded or packed rows"
    if not _close(*_decoded(layout, loaded, prompts, completions, expected)):
        return "what is drawn from"
    grown = _extended(layout, loaded, prompts, completions, expected)
    return "" if _close(*grown) else "rows that grow by several tokens"


def _decoded(
    layout: Layout, loaded: Loaded, prompts: list[list[int]], completions: list[list[int]], wanted: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Logits of rows that grow, change places and are forked, and those that are right."""
    alone = pad(Rows(prompts, [[] for _ in prompts]), 0).to(loaded.device)
    session = layout.session(loaded, alone, torch.tensor([0, 0, 1], device=loaded.device))
    order, found, right = [0, 0, 1], [session.logits_RV.clone()], [wanted[row][0] for row in (0, 0, 1)]
    for step, places in enumerate(MOVES):
        session.step(torch.tensor([completions[row][step] for row in order], device=loaded.device))
        session.select(torch.tensor(places, device=loaded.device))
        order = [order[place] for place in places]
        found.append(session.logits_RV.clone())
        right += [wanted[row][step + 1] for row in order]
    return torch.cat(found), torch.stack(right)


def _extended(
    layout: Layout, loaded: Loaded, prompts: list[list[int]], completions: list[list[int]], wanted: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """The same of rows that get all their tokens but the last at once, one of them fewer than the other."""
    rows = pad(Rows(prompts, [completion[:-1] for completion in completions]), 0).to(loaded.device)
    alone = pad(Rows(prompts, [[] for _ in prompts]), 0).to(loaded.device)
    session = layout.session(loaded, alone, torch.arange(len(prompts), device=loaded.device))
    count_R = rows.mask_NT.sum(1).long()
    found_RLV = session.extend(rows.ids_NT, count_R)
    return found_RLV[rows.mask_NT > 0], torch.cat([logits_TV[1:] for logits_TV in wanted])


def _rows(loaded: Loaded, rows: Sequence[Sequence[int]]) -> list[list[int]]:
    size = int(loaded.model.get_input_embeddings().weight.shape[0])
    return [[token % size for token in row] for row in rows]


def _close(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape:
        return False
    single = expected.shape[-1] == 1
    seen, right = (part.float() if single else part.float().log_softmax(-1) for part in (found, expected))
    return bool((seen - right).abs().max() <= CLOSE * expected.std())
