"""Supervised fine-tuning on all logged responses, whatever their reward (the win-rate reference of RPO Table III).

    L = - sum_n sum_t m_nt log pi(y_nt | x_n, y_n,<t) / sum_n sum_t m_nt

Against SFT: the demonstrations are what the log holds, good and bad. Against RPO: no reward enters.
"""

from __future__ import annotations

from rlfamily import core
from rlfamily.algorithms import DataSource, LossBatch, LossOutput
from rlfamily.algorithms.settings import LoggedSettings

NEEDS: frozenset[str] = frozenset()
SOURCE: DataSource = "logged"
VERSION = "1"


class Config(LoggedSettings):
    """No knobs of its own."""


def loss(batch: LossBatch, config: Config) -> LossOutput:
    """Mean negative log-likelihood per completion token, in nats."""
    core.check_batch(batch)
    mask_NT, weight_N = batch.mask_NT, batch.row_weight_N
    loss = core.token_mean(-batch.logp_NT, mask_NT, weight_N)
    metrics = core.kl_metrics(batch.logp_NT, mask_NT, batch.old_logp_NT, batch.ref_logp_NT, weight_N)
    return LossOutput(loss, core.to_floats(metrics))
