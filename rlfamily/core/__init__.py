"""Pure tensor mathematics shared by all methods. Imports torch and nothing else, and that only on first use.

Shape suffixes: B prompts, K responses per prompt, N = B*K rows (a group's rows are contiguous), T completion tokens, V
vocabulary. `mask_NT` is 1 on generated tokens up to and including the first EOS; whatever pads hold is ignored.
"""

# ruff: noqa: F401
# mypy: implicit-reexport

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlfamily.core.advantages import (
        group_center,
        group_leave_one_out,
        group_zscore,
        log_mean_of_other_groups,
        weight_metrics,
    )
    from rlfamily.core.divergences import kl_in_loss, kl_in_reward, kl_per_token, penalised_rewards
    from rlfamily.core.gae import at_last_token, critic_values, generalized_advantages, step_starts, sums_to_go, whiten
    from rlfamily.core.groups import group_index, group_logsumexp
    from rlfamily.core.logprobs import sequence_logprobs, token_logprobs
    from rlfamily.core.masking import (
        aggregate_tokens,
        expectation_over_rows,
        group_weights,
        masked,
        mean_over_row_tokens,
        nonempty_weights,
        sum_over_tokens,
    )
    from rlfamily.core.metrics import kl_metrics, to_floats
    from rlfamily.core.mismatch import importance_metrics, importance_weights, mismatch_metrics
    from rlfamily.core.preferences import bradley_terry_nll, pair_differences, whole_pair_weights
    from rlfamily.core.prefixes import (
        Prefixes,
        draw_variance,
        drawn_counts,
        mean_abs_log_ratio,
        step_prefixes,
        token_prefixes,
        whole_prefixes,
    )
    from rlfamily.core.ratios import bounded_exp, bounded_exponents, clipped_exp, log_ratios, scheduled
    from rlfamily.core.reductions import fixed_len, named_reduction, seq_mean_batch_mean, seq_sum_batch_mean, token_mean
    from rlfamily.core.shapes import check, check_batch, require
    from rlfamily.core.states import end_metrics, following, logit_cross_entropy, mean_over_states, states_of
    from rlfamily.core.surrogate import clipped_surrogate, clipped_value_error, soft_bellman_loss, surrogate_loss

_EXPORTS = {
    "advantages": ("group_center", "group_leave_one_out", "group_zscore", "log_mean_of_other_groups", "weight_metrics"),
    "divergences": ("kl_in_loss", "kl_in_reward", "kl_per_token", "penalised_rewards"),
    "gae": ("at_last_token", "critic_values", "generalized_advantages", "step_starts", "sums_to_go", "whiten"),
    "groups": ("group_index", "group_logsumexp"),
    "logprobs": ("sequence_logprobs", "token_logprobs"),
    "masking": (
        "aggregate_tokens", "expectation_over_rows", "group_weights", "masked", "mean_over_row_tokens",
        "nonempty_weights", "sum_over_tokens",
    ),
    "metrics": ("kl_metrics", "to_floats"),
    "mismatch": ("importance_metrics", "importance_weights", "mismatch_metrics"),
    "preferences": ("bradley_terry_nll", "pair_differences", "whole_pair_weights"),
    "prefixes": (
        "Prefixes", "draw_variance", "drawn_counts", "mean_abs_log_ratio", "step_prefixes",
        "token_prefixes", "whole_prefixes",
    ),
    "ratios": ("bounded_exp", "bounded_exponents", "clipped_exp", "log_ratios", "scheduled"),
    "reductions": ("fixed_len", "named_reduction", "seq_mean_batch_mean", "seq_sum_batch_mean", "token_mean"),
    "shapes": ("check", "check_batch", "require"),
    "states": ("end_metrics", "following", "logit_cross_entropy", "mean_over_states", "states_of"),
    "surrogate": ("clipped_surrogate", "clipped_value_error", "soft_bellman_loss", "surrogate_loss"),
}
_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'rlfamily.core' has no attribute '{name}'")
    return getattr(importlib.import_module(f"rlfamily.core.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_MODULE_OF)
