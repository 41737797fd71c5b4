"""How far the engine that draws tokens and the trainer that scores them disagree, and what can be done about it.

Both hold the same weights, but other kernels, another precision or a stale copy give other log-probs. Rollouts then
come from `engine`, while losses assume that they come from the trainer's behaviour policy `old`.
"""

from __future__ import annotations

from torch import Tensor

from rlfamily.core.divergences import kl_per_token
from rlfamily.core.ratios import log_ratios
from rlfamily.core.reductions import token_mean


def mismatch_metrics(engine_logp_NT: Tensor, old_logp_NT: Tensor, mask_NT: Tensor) -> dict[str, Tensor]:
    """The gap at the tokens drawn, in nats; scalars in float64, as equal engines differ by rounding only.

    mismatch_mean   token mean of |old - engine|
    mismatch_max    the largest of them
    mismatch_kl     token mean of exp(d) - 1 - d, d = old - engine: k3 estimate of KL(engine || old), never negative
    """
    ratio_NT = log_ratios(engine_logp_NT.double(), old_logp_NT.double(), mask_NT.double())
    return {
        "mismatch_mean": token_mean(ratio_NT.abs(), mask_NT, None),
        "mismatch_max": ratio_NT.abs().max(),
        "mismatch_kl": token_mean(kl_per_token(ratio_NT, "k3"), mask_NT, None),
    }


def importance_weights(engine_logp_NT: Tensor, old_logp_NT: Tensor, mask_NT: Tensor, cap: float) -> Tensor:
    """min(old / engine, cap) of each token's probability, (N, T), detached; pads get min(1, cap).

    Without the cap, the expectation of a weighted term over the engine's next token is that of the term over the
    trainer's; the prefixes before it stay as the engine drew them. The cap trades this for a bounded variance.
    """
    return _ratios(engine_logp_NT, old_logp_NT, mask_NT).clamp(max=cap)


def importance_metrics(
    engine_logp_NT: Tensor, old_logp_NT: Tensor, mask_NT: Tensor, cap: float
) -> dict[str, Tensor]:
    """importance_mean: token mean of the weights; importance_truncated: share of tokens whose ratio passes the cap."""
    ratio_NT = _ratios(engine_logp_NT, old_logp_NT, mask_NT)
    return {
        "importance_mean": token_mean(ratio_NT.clamp(max=cap), mask_NT, None),
        "importance_truncated": token_mean((ratio_NT > cap).to(ratio_NT), mask_NT, None),
    }


def _ratios(engine_logp_NT: Tensor, old_logp_NT: Tensor, mask_NT: Tensor) -> Tensor:
    """old / engine; infinite where it overflows, which a cap makes finite."""
    return log_ratios(old_logp_NT.detach(), engine_logp_NT, mask_NT).exp()
