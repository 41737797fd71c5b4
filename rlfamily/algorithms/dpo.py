"""Direct preference optimisation on pairs of responses (Rafailov et al. 2023; TOPR report Eq. 4).

    u = sum_t log pi(y_t)/pi_ref(y_t)    L = -E_pairs[ log sigmoid(beta (u_chosen - u_rejected)) ]

Log-ratios are sums over the response, not means. Against the rollout methods: the rewards only chose the pair, so they
do not enter; the reference policy does.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rlfamily import core
from rlfamily.algorithms import DataSource, LossBatch, LossOutput
from rlfamily.algorithms.settings import AlgorithmSettings

NEEDS: frozenset[str] = frozenset({"ref"})
SOURCE: DataSource = "pairs"
VERSION = "2"


class Config(AlgorithmSettings):
    """`beta`: with Bradley-Terry labels the minimiser is pi_ref e^(r/beta) / Z."""

    group_size: Literal[2]
    beta: float = Field(gt=0)


def loss(batch: LossBatch, config: Config) -> LossOutput:
    """Mean over pairs (rows 2b chosen, 2b+1 rejected).

    A pair with a response emptied by mask_truncated is left out.
    """
    core.check_batch(batch)
    mask_NT, weight_N = batch.mask_NT, batch.row_weight_N
    log_ratio_NT = core.log_ratios(batch.logp_NT, core.require(batch.ref_logp_NT, "ref_logp_NT"), mask_NT)
    margin_B = config.beta * core.pair_differences(log_ratio_NT.sum(1), batch.group_size)
    weight_B = core.whole_pair_weights(mask_NT, weight_N)
    loss = core.expectation_over_rows(core.bradley_terry_nll(margin_B), weight_B)

    metrics = {
        "margin": core.expectation_over_rows(margin_B, weight_B),
        "accuracy": core.expectation_over_rows((margin_B > 0).to(margin_B.dtype), weight_B),
        **core.kl_metrics(batch.logp_NT, mask_NT, batch.old_logp_NT, batch.ref_logp_NT, weight_N),
    }
    return LossOutput(loss, core.to_floats(metrics))
