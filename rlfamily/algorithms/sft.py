"""Supervised fine-tuning: cross-entropy on demonstrations, prompt tokens excluded.

    L = - sum_n sum_t m_nt log pi(y_nt | x_n, y_n,<t) / sum_n sum_t m_nt

TOPR report Eq. 1 writes the sum; the losses it prints (0.50, 0.36, 0.32) are means per token, hence the denominator.
"""

from __future__ import annotations

from rlfamily import core
from rlfamily.algorithms import DataSource, LossBatch, LossOutput
from rlfamily.algorithms.settings import AlgorithmSettings

NEEDS: frozenset[str] = frozenset()
SOURCE: DataSource = "demonstrations"
VERSION = "1"


class Config(AlgorithmSettings):
    """No knobs of its own."""


def loss(batch: LossBatch, config: Config) -> LossOutput:
    """Mean negative log-likelihood per completion token, in nats."""
    core.check_batch(batch)
    mask_NT, weight_N = batch.mask_NT, batch.row_weight_N
    loss = core.token_mean(-batch.logp_NT, mask_NT, weight_N)
    metrics = core.kl_metrics(batch.logp_NT, mask_NT, batch.old_logp_NT, batch.ref_logp_NT, weight_N)
    return LossOutput(loss, core.to_floats(metrics))
