"""From logits to log-probabilities and entropies of the generated tokens, in fp32 or wider."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rlfamily.core.masking import sum_over_tokens

CHUNK = 1 << 22  # logits widened at a time (16 MiB in fp32): the V axis dwarfs everything else


def token_logprobs(logits_MV: Tensor, ids_M: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """log pi(y_m | ...) of M tokens and the entropy of what each was drawn from, in nats, (M,) each.

    `logits_MV[m]` is the distribution that token m was drawn from, before `temperature` divides it; -inf excludes a
    token. Only the log-probs carry a gradient, and only once: d logp_m / d logits_mv = ([v = y_m] - pi(v)) /
    temperature. Nothing as large as the logits is kept for it but the logits. Raises ValueError when the temperature is
    not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature={temperature} must be positive")
    found: tuple[Tensor, Tensor] = _TokenLogprobs.apply(logits_MV, ids_M, temperature)  # type: ignore[no-untyped-call]
    return found


def sequence_logprobs(logp_NT: Tensor, mask_NT: Tensor) -> Tensor:
    """s = sum_t log pi(y_t | x, y_<t), EOS included, (N,).

    Never exponentiate it alone: exp(-240) is 0 in fp32.
    """
    return sum_over_tokens(logp_NT, mask_NT)


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_MV: Tensor, ids_M: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(logits_MV.dtype, torch.float32)
        logp_M, entropy_M, normaliser_M = logits_MV.new_empty(3, len(ids_M), dtype=wide)
        for part in _chunks(logits_MV):
            scaled_CV = logits_MV[part].to(wide) / temperature
            normaliser_M[part] = scaled_CV.logsumexp(1)
            logp_M[part] = scaled_CV.gather(1, ids_M[part][:, None])[:, 0] - normaliser_M[part]
            share_CV = (scaled_CV - normaliser_M[part][:, None]).exp_()
            # finite where excluded: 0 x -inf is no number
            entropy_M[part] = normaliser_M[part] - share_CV.mul_(scaled_CV.clamp_(min=torch.finfo(wide).min)).sum(1)
        ctx.save_for_backward(logits_MV, ids_M, normaliser_M)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy_M)
        return logp_M, entropy_M

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_M: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        logits_MV, ids_M, normaliser_M = ctx.saved_tensors
        gradient_MV = torch.empty_like(logits_MV)
        for part in _chunks(logits_MV):
            slope_C1 = (gradient_M[part] / ctx.temperature)[:, None]
            scaled_CV = logits_MV[part].to(normaliser_M.dtype) / ctx.temperature
            share_CV = scaled_CV.sub_(normaliser_M[part][:, None]).exp_()
            gradient_MV[part] = share_CV.mul_(-slope_C1).scatter_add_(1, ids_M[part][:, None], slope_C1)
        return gradient_MV, None, None


def _chunks(logits_MV: Tensor) -> Iterator[slice]:
    """Rows of at most CHUNK logits together, at least one."""
    rows = max(1, CHUNK // max(1, logits_MV.shape[1]))
    return (slice(start, start + rows) for start in range(0, len(logits_MV), rows))
