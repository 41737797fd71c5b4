"""Single-sample estimators of KL(pi || other), from d = log pi(y) - log pi_other(y), y ~ pi
(Schulman, "Approximating KL").

Where the term is placed decides what it does: k1 in the loss has zero expected gradient; k1 in the
(detached) reward and k2 in the loss descend the reverse KL(pi || other); k3 in the loss descends
the forward KL(other || pi).
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from rlfamily.core.ratios import bounded_exp

Form = Literal["k1", "k2", "k3"]


def kl_per_token(log_ratio: Tensor, form: Form) -> Tensor:
    """k1 = d, k2 = d^2/2 or k3 = exp(-d) - 1 + d, elementwise; a pad (d = 0) gives 0."""
    if form == "k1":
        return log_ratio
    if form == "k2":
        return log_ratio.square() / 2
    return bounded_exp(-log_ratio) - 1 + log_ratio
