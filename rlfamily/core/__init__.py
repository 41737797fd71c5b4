"""Pure tensor mathematics shared by all methods. Imports torch and nothing else, and that only on
first use.

Shape suffixes: B prompts, K responses per prompt, N = B*K rows (a group's rows are contiguous), T
completion tokens, V vocabulary. `mask_NT` is 1 on generated tokens up to and including the first
EOS; whatever pads hold is ignored.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlfamily.core.advantages import group_center as group_center
    from rlfamily.core.advantages import group_leave_one_out as group_leave_one_out
    from rlfamily.core.advantages import group_zscore as group_zscore
    from rlfamily.core.divergences import kl_in_loss as kl_in_loss
    from rlfamily.core.divergences import kl_in_reward as kl_in_reward
    from rlfamily.core.divergences import kl_per_token as kl_per_token
    from rlfamily.core.divergences import penalised_rewards as penalised_rewards
    from rlfamily.core.gae import at_last_token as at_last_token
    from rlfamily.core.gae import generalized_advantages as generalized_advantages
    from rlfamily.core.gae import masked as masked
    from rlfamily.core.gae import step_starts as step_starts
    from rlfamily.core.gae import sums_to_go as sums_to_go
    from rlfamily.core.gae import whiten as whiten
    from rlfamily.core.logprobs import sequence_logprobs as sequence_logprobs
    from rlfamily.core.logprobs import token_logprobs as token_logprobs
    from rlfamily.core.masking import expectation_over_rows as expectation_over_rows
    from rlfamily.core.masking import mean_over_row_tokens as mean_over_row_tokens
    from rlfamily.core.masking import nonempty_weights as nonempty_weights
    from rlfamily.core.masking import sum_over_tokens as sum_over_tokens
    from rlfamily.core.metrics import kl_metrics as kl_metrics
    from rlfamily.core.metrics import to_floats as to_floats
    from rlfamily.core.mismatch import importance_metrics as importance_metrics
    from rlfamily.core.mismatch import importance_weights as importance_weights
    from rlfamily.core.mismatch import mismatch_metrics as mismatch_metrics
    from rlfamily.core.preferences import bradley_terry_nll as bradley_terry_nll
    from rlfamily.core.prefixes import Prefixes as Prefixes
    from rlfamily.core.prefixes import draw_variance as draw_variance
    from rlfamily.core.prefixes import drawn_counts as drawn_counts
    from rlfamily.core.prefixes import step_prefixes as step_prefixes
    from rlfamily.core.prefixes import token_prefixes as token_prefixes
    from rlfamily.core.prefixes import whole_prefixes as whole_prefixes
    from rlfamily.core.ratios import bounded_exp as bounded_exp
    from rlfamily.core.ratios import bounded_exponents as bounded_exponents
    from rlfamily.core.ratios import clipped_exp as clipped_exp
    from rlfamily.core.ratios import log_ratios as log_ratios
    from rlfamily.core.ratios import scheduled as scheduled
    from rlfamily.core.reductions import fixed_len as fixed_len
    from rlfamily.core.reductions import seq_mean_batch_mean as seq_mean_batch_mean
    from rlfamily.core.reductions import seq_sum_batch_mean as seq_sum_batch_mean
    from rlfamily.core.reductions import token_mean as token_mean
    from rlfamily.core.shapes import check as check
    from rlfamily.core.shapes import require as require
    from rlfamily.core.surrogate import clipped_surrogate as clipped_surrogate
    from rlfamily.core.surrogate import clipped_value_error as clipped_value_error

_EXPORTS = {
    "advantages": ("group_center", "group_leave_one_out", "group_zscore"),
    "divergences": ("kl_in_loss", "kl_in_reward", "kl_per_token", "penalised_rewards"),
    "logprobs": ("sequence_logprobs", "token_logprobs"),
    "masking": (
        "expectation_over_rows",
        "mean_over_row_tokens",
        "nonempty_weights",
        "sum_over_tokens",
    ),
    "metrics": ("kl_metrics", "to_floats"),
    "mismatch": ("importance_metrics", "importance_weights", "mismatch_metrics"),
    "preferences": ("bradley_terry_nll",),
    "prefixes": (
        "Prefixes",
        "draw_variance",
        "drawn_counts",
        "step_prefixes",
        "token_prefixes",
        "whole_prefixes",
    ),
    "ratios": ("bounded_exp", "bounded_exponents", "clipped_exp", "log_ratios", "scheduled"),
    "reductions": ("fixed_len", "seq_mean_batch_mean", "seq_sum_batch_mean", "token_mean"),
    "shapes": ("check", "require"),
    "gae": (
        "at_last_token",
        "generalized_advantages",
        "masked",
        "step_starts",
        "sums_to_go",
        "whiten",
    ),
    "surrogate": ("clipped_surrogate", "clipped_value_error"),
}
_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'rlfamily.core' has no attribute '{name}'")
    return getattr(importlib.import_module(f"rlfamily.core.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_MODULE_OF)
