"""The T+1 states of a response: before its first token, behind each, and, last of all, the complete response.

S = T + 1. `mask_NS` is 1 on a row's states h = 0..length; what other places hold is ignored.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from rlfamily.core.gae import at_last_token
from rlfamily.core.masking import expectation_over_rows, masked, nonempty_weights, sum_over_tokens
from rlfamily.core.reductions import seq_mean_batch_mean, token_mean
from rlfamily.core.shapes import check


def states_of(mask_NT: Tensor) -> Tensor:
    """mask_NS of rows of tokens: a row without a token still has its prompt, a state."""
    return torch.cat([mask_NT.new_ones(len(mask_NT), 1), mask_NT], 1)


def following(values_NS: Tensor, mask_NS: Tensor, last_N: Tensor) -> Tensor:
    """Of each state what its successor has, (N, S); the complete response, without one, has `last_N`."""
    values_NS = masked(values_NS, mask_NS)
    return functional.pad(values_NS[:, 1:], (0, 1)) + at_last_token(last_N, mask_NS)


def logit_cross_entropy(values_NS: Tensor, outcome_N1: Tensor) -> Tensor:
    """-r log sigma(V) - (1 - r) log(1 - sigma(V)) of every state, (N, S); finite at any V."""
    return functional.softplus(values_NS) - outcome_N1 * values_NS


def mean_over_states(
    x_NS: Tensor, mask_NS: Tensor, reduction: Literal["token_mean", "per_sequence_mean"], row_weight_N: Tensor | None
) -> Tensor:
    """Over all states of the batch, or over each response's own and then over responses: long ones weigh less."""
    mean = token_mean if reduction == "token_mean" else seq_mean_batch_mean
    return mean(x_NS, mask_NS, row_weight_N)


def end_metrics(values_NS: Tensor, mask_NS: Tensor, row_weight_N: Tensor | None) -> dict[str, Tensor]:
    """Mean value of prompts and of complete responses."""
    check(values_NS=values_NS, mask_NS=mask_NS)
    weight_N = nonempty_weights(mask_NS, row_weight_N)
    ends_NS = at_last_token(torch.ones_like(values_NS[:, 0]), mask_NS)
    return {"value_prompt": expectation_over_rows(values_NS[:, 0], weight_N),
            "value_complete": expectation_over_rows(sum_over_tokens(values_NS * ends_NS, mask_NS), weight_N)}
