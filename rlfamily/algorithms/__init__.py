"""Training-time methods: one file each, with a `Config`, what it `NEEDS`, its data `SOURCE`, and a pure `loss`.

The file system is the registry: `get("topr")` imports `rlfamily/algorithms/topr.py`. A method's
`VERSION` is changed by hand when the numbers change; it enters the keys of what uses the method. Legend of shape
suffixes: B prompts, K responses per prompt, N = B*K rows (a group's rows are contiguous), T completion tokens,
S reasoning steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from rlfamily.algorithms.settings import AlgorithmSettings, ValueSettings
from rlfamily.plugins import Plugins

if TYPE_CHECKING:
    from torch import Generator, Tensor

DataSource = Literal["demonstrations", "pairs", "rollouts", "logged"]
NONE = "none"  # the choice of no method: nothing is trained, so it has a yaml and no loss

@dataclass(frozen=True)
class LossBatch:
    """Everything a loss may look at. Log-probs are fp32 (or fp64 in tests), pads carry mask 0.

    logp_NT       log pi_theta(y_t | x, y_<t), gradient flows
    mask_NT       1 for every generated token up to and including the first EOS, else 0
    rewards_N     scalar reward of each full response; ignored by supervised losses
    group_size    K; preference pairs are groups of two, chosen first; 0 where groups are ragged
    prompt_index_N  where groups are ragged, the index of each row's prompt: 0, 1, 2, ... in the rows' order
    old_logp_NT   behaviour policy (for logged data: as logged), no gradient
    ref_logp_NT   frozen initial policy, no gradient
    values_NT     value of the state before each token, gradient flows
    prompt_values_N  value of each row's prompt, gradient flows
    old_values_NT  values_NT of the policy that generated the batch, no gradient; None while that is the present one
    step_ends_NS  exclusive token index of the end of each reasoning step; rows with fewer steps repeat their length
    row_weight_N  multiplies a row's contribution to the expectation that the loss estimates: an expectation over rows
                  is sum(w*x)/sum(w), None meaning equal weights (a token mean weights numerator and denominator
                  alike). A batch of all sequences (or all groups, every row of a group carrying the group's
                  probability) of an enumerable world therefore gives the exact expected loss.
    generator     source of any randomness inside a loss
    progress      fraction of training done, in [0, 1], for schedules
    running_reward  mean reward of all responses seen before this batch, for the running-mean baseline
    mismatched_logp_NT  each row's prompt with a completion of the next prompt (after the last, of the first), gradient
                  flows; None where the batch has one prompt only. With it come mismatched_mask_NT, the mask of those
                  completions, and mismatched_ref_logp_NT. KTO estimates a KL from them (arXiv 2402.01306)
    """

    logp_NT: Tensor
    mask_NT: Tensor
    rewards_N: Tensor
    group_size: int
    old_logp_NT: Tensor | None = None
    ref_logp_NT: Tensor | None = None
    values_NT: Tensor | None = None
    old_values_NT: Tensor | None = None
    step_ends_NS: Tensor | None = None
    row_weight_N: Tensor | None = None
    generator: Generator | None = None
    progress: float = 0.0
    running_reward: float = 0.0
    prompt_index_N: Tensor | None = None
    mismatched_logp_NT: Tensor | None = None
    mismatched_mask_NT: Tensor | None = None
    mismatched_ref_logp_NT: Tensor | None = None
    prompt_values_N: Tensor | None = None


@dataclass(frozen=True)
class LossOutput:
    """`loss` is the scalar to minimise; `metrics` are detached numbers for the record."""

    loss: Tensor
    metrics: dict[str, float] = field(default_factory=dict)


class Algorithm(Protocol):
    """What a module in this folder offers. NEEDS: old, ref, value, prompt_value, steps, generator, mismatched."""

    Config: type[AlgorithmSettings]
    NEEDS: frozenset[str]
    SOURCE: DataSource
    VERSION: str

    def loss(self, batch: LossBatch, config: Any) -> LossOutput:
        """Return the scalar objective of one batch."""
        ...


METHODS = Plugins[Algorithm]("algorithms", "algorithm", "method", ("settings",))
names, get = METHODS.names, METHODS.get


def needs(algorithm: Algorithm, config: AlgorithmSettings) -> frozenset[str]:
    """The forwards this configuration really uses: NEEDS, less what its own `unneeded(config)` rules out."""
    unneeded = getattr(algorithm, "unneeded", None)
    return algorithm.NEEDS - (unneeded(config) if unneeded else frozenset())


def properties(algorithm: Algorithm, config: AlgorithmSettings) -> dict[str, str | int]:
    """What a method takes, in words, read from what it declares.

    `forwards` counts the passes of a response through any network at an update; the reference log-probs of logged
    responses are computed once for all runs, so they are not among them.
    """
    wanted, value = needs(algorithm, config), ""
    apart = isinstance(config, ValueSettings) and config.apart
    for what, of in (("value", "every state"), ("prompt_value", "the prompt")):
        if what in wanted:
            value = f"of {of}, {'a network apart' if apart else 'on the policy'}"
    known = algorithm.SOURCE == "logged"
    compared = ["the policy", *(["the reference"] if "ref" in wanted else []),
                *(["both on mismatched pairs"] if "mismatched" in wanted else [])]
    return {
        "data": f"{algorithm.SOURCE} responses" if algorithm.SOURCE == "logged" else algorithm.SOURCE,
        "value": value or "none", "log_probs": ", ".join(compared),
        "trained": "policy and value" if value else "policy",
        "forwards": 1 + ("ref" in wanted and not known) + 2 * ("mismatched" in wanted) + apart,
    }
