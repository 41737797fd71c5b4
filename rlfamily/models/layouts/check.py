"""Does a layout give what a plain pass gives? Asked of every loaded model, on two short rows of different lengths."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlfamily.models.batching import Rows, pad
from rlfamily.models.layouts.calls import logits_of

if TYPE_CHECKING:
    from rlfamily.models.layouts import Layout
    from rlfamily.models.loaded import Loaded

CLOSE = 1e-3
"""Largest difference of a log-prob, in standard deviations of the logits: rounding in fp32 stays well below it."""

PROMPTS, COMPLETIONS = [[3, 9, 5, 8, 4], [7, 6]], [[10, 4, 11], [5, 12, 3, 9]]
MOVES = ([2, 0], [1, 1])  # after each token in decoding: what each row becomes; dropped, moved and forked


def plain(loaded: Loaded) -> list[Tensor]:
    """logits_LV of each row, from a pass of its own, in which nothing is padded, packed or cached."""
    return [logits_of(loaded.model, torch.tensor([row], device=loaded.device), len(row))[0].float()
            for row in _rows(loaded, join=True)]


def differs(layout: Layout, loaded: Loaded, expected: list[Tensor]) -> str:
    """What differs from a plain pass: "" where nothing does."""
    prompts, completions = _rows(loaded, prompts=True), _rows(loaded)
    rows = pad(Rows(prompts, completions), 0).to(loaded.device)
    updates = layout.at_tokens(layout.logits(loaded.model, rows), rows)
    wanted = [logits_LV[len(prompt) - 1:-1] for logits_LV, prompt in zip(expected, prompts, strict=True)]
    if not _close(updates, torch.cat(wanted)):
        return "the log-probs of padded or packed rows"
    return "" if _close(*_decoded(layout, loaded, prompts, completions, wanted)) else "what is drawn from"


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


def _rows(loaded: Loaded, prompts: bool = False, join: bool = False) -> list[list[int]]:
    size = int(loaded.model.get_input_embeddings().weight.shape[0])
    rows = [one + other for one, other in zip(PROMPTS, COMPLETIONS, strict=True)] if join else (
        PROMPTS if prompts else COMPLETIONS)
    return [[token % size for token in row] for row in rows]


def _close(found: Tensor, expected: Tensor) -> bool:
    gap = (found.float().log_softmax(-1) - expected.log_softmax(-1)).abs().max()
    return found.shape == expected.shape and bool(gap <= CLOSE * expected.std())
