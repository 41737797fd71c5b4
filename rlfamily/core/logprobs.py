"""From logits to log-probabilities and entropies of the generated tokens, in fp32 or wider."""

from __future__ import annotations

import torch
from torch import Tensor

from rlfamily.core.masking import sum_over_tokens
from rlfamily.core.shapes import check


def token_logprobs(
    logits_NTV: Tensor, ids_NT: Tensor, mask_NT: Tensor, temperature: float
) -> Tensor:
    """log pi(y_t | x, y_<t) in nats at the given temperature, (N, T); pads get 0.

    `logits_NTV[n, t]` is the distribution that token t was drawn from: model outputs at positions
    P-1 .. P+T-2. Only unmasked positions are computed, since the V axis dwarfs everything else.
    """
    check(logits_NTV=logits_NTV, ids_NT=ids_NT, mask_NT=mask_NT)
    real_NT = mask_NT > 0
    logits_MV = _tempered(logits_NTV[real_NT], temperature)
    chosen_M = logits_MV.gather(1, ids_NT[real_NT][:, None])[:, 0]
    return _scatter(chosen_M - logits_MV.logsumexp(1), real_NT)


def token_entropies(logits_NTV: Tensor, mask_NT: Tensor, temperature: float) -> Tensor:
    """Entropy in nats of the distribution each token was drawn from, (N, T); pads get 0."""
    check(logits_NTV=logits_NTV, mask_NT=mask_NT)
    real_NT = mask_NT > 0
    logp_MV = _tempered(logits_NTV[real_NT], temperature).log_softmax(1)
    # torch.special.entr has 0 log 0 = 0, so an excluded token (logit -inf) is no NaN
    return _scatter(torch.special.entr(logp_MV.exp()).sum(1), real_NT)


def sequence_logprobs(logp_NT: Tensor, mask_NT: Tensor) -> Tensor:
    """s = sum_t log pi(y_t | x, y_<t), EOS included, (N,).

    Never exponentiate it alone: exp(-240) is 0 in fp32.
    """
    return sum_over_tokens(logp_NT, mask_NT)


def _tempered(logits_MV: Tensor, temperature: float) -> Tensor:
    if temperature <= 0:
        raise ValueError(f"temperature={temperature} must be positive")
    return logits_MV.to(torch.promote_types(logits_MV.dtype, torch.float32)) / temperature


def _scatter(values_M: Tensor, real_NT: Tensor) -> Tensor:
    zeros_NT = torch.zeros(real_NT.shape, dtype=values_M.dtype, device=values_M.device)
    return zeros_NT.masked_scatter(real_NT, values_M)
