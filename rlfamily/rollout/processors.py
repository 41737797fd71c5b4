"""From a model's logits to those that a token is drawn from, as transformers' own processors make them. Pure tensors.

`said_RL` holds what counts as said before, right-aligned: row r has it from place `start_R[r]` on, at least one token.
"""

from __future__ import annotations

import torch
from torch import Tensor


def penalized(logits_RV: Tensor, said_RL: Tensor, start_R: Tensor, penalty: float) -> Tensor:
    """Every token said before less likely: a positive logit over `penalty`, a negative one times it, once a token."""
    said_RL = torch.where(_said(said_RL, start_R), said_RL, said_RL[:, -1:])  # in place of a pad a token said anyway
    score_RL = logits_RV.gather(1, said_RL)
    return logits_RV.scatter(1, said_RL, torch.where(score_RL < 0, score_RL * penalty, score_RL / penalty))


def without_repeats(logits_RV: Tensor, said_RL: Tensor, start_R: Tensor, size: int) -> Tensor:
    """Tokens that would say `size` tokens again in their order at -inf; all stay where none would be left."""
    if said_RL.shape[1] < size:
        return logits_RV
    last_R1L = said_RL[:, None, said_RL.shape[1] + 1 - size:]
    windows_RLS = said_RL.unfold(1, size, 1)
    again_RL = (windows_RLS[..., :-1] == last_R1L).all(-1) & _said(said_RL, start_R)[:, :windows_RLS.shape[1]]
    row, place = again_RL.nonzero(as_tuple=True)
    left_RV = logits_RV.index_put((row, windows_RLS[row, place, -1]), logits_RV.new_tensor(-torch.inf))
    return torch.where(left_RV.isneginf().all(1, keepdim=True), logits_RV, left_RV)


def likeliest(logits_RV: Tensor, top_k: int, top_p: float) -> Tensor:
    """logits_RV with all but the top_k likeliest tokens at -inf, then all but the fewest that reach top_p together."""
    if 0 < top_k < logits_RV.shape[1]:
        least_R1 = logits_RV.topk(top_k, -1).values[:, -1:]
        logits_RV = logits_RV.masked_fill(logits_RV < least_R1, -torch.inf)
    if top_p < 1.0:
        sorted_RV, order_RV = logits_RV.sort(-1, descending=True)
        before_RV = sorted_RV.softmax(-1).cumsum(-1) - sorted_RV.softmax(-1)  # 0 at the likeliest: it always stays
        cut_RV = torch.zeros_like(before_RV, dtype=torch.bool).scatter(1, order_RV, before_RV >= top_p)
        logits_RV = logits_RV.masked_fill(cut_RV, -torch.inf)
    return logits_RV


def _said(said_RL: Tensor, start_R: Tensor) -> Tensor:
    """False at pads."""
    return torch.arange(said_RL.shape[1], device=said_RL.device) >= start_R[:, None]
