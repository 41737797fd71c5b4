"""Numbers every loss reports, computed once and moved to the host in one transfer."""

from __future__ import annotations

import torch
from torch import Tensor

from rlfamily.core.divergences import kl_per_token
from rlfamily.core.ratios import log_ratios
from rlfamily.core.reductions import token_mean


def kl_metrics(
    logp_NT: Tensor,
    mask_NT: Tensor,
    old_logp_NT: Tensor | None,
    ref_logp_NT: Tensor | None,
    row_weight_N: Tensor | None,
) -> dict[str, Tensor]:
    """Divergences, in nats per token, from those of the behaviour and reference policies given.

    kl_old      token mean of old - new: k1 estimate of KL(old || new), as responses came from old
    kl_ref_k1   token mean of new - ref: k1 estimate of KL(new || ref), unbiased on policy
    kl_ref_k3   the same by k3, which is never negative
    """
    found: dict[str, Tensor] = {}
    logp_NT = logp_NT.detach()
    if old_logp_NT is not None:
        found["kl_old"] = token_mean(-log_ratios(logp_NT, old_logp_NT, mask_NT), mask_NT, row_weight_N)
    if ref_logp_NT is not None:
        log_ratio_NT = log_ratios(logp_NT, ref_logp_NT, mask_NT)
        found["kl_ref_k1"] = token_mean(kl_per_token(log_ratio_NT, "k1"), mask_NT, row_weight_N)
        found["kl_ref_k3"] = token_mean(kl_per_token(log_ratio_NT, "k3"), mask_NT, row_weight_N)
    return found


def to_floats(scalars: dict[str, Tensor]) -> dict[str, float]:
    """Detached Python numbers of scalar tensors, by one device-to-host copy."""
    if not scalars:
        return {}
    values: list[float] = torch.stack([scalar.detach() for scalar in scalars.values()]).tolist()
    return dict(zip(scalars, values, strict=True))
