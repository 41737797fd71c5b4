"""Wrong variants of the losses on logged responses, each of which an oracle must catch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import test_dro_oracles as dro_oracles
import test_kto_oracles as kto_oracles
import test_oreo_oracles as oreo_oracles
import test_rpo_oracles as oracles
import torch
from torch import Tensor
from world import patch_core

from rlfamily import core
from rlfamily.algorithms import LossBatch, LossOutput, dro, kto, oreo, rpo

Patch = pytest.MonkeyPatch
Mutant = Callable[[Patch], None]
Oracle = Callable[[], None]


def core_function(name: str, wrong: Callable[..., Any]) -> Mutant:
    return lambda patch: patch_core(patch, name, wrong)


def on_settings(module: Any, change: Callable[[Any], dict[str, Any]]) -> Mutant:
    """The loss, with its temperature used in another place."""
    right = module.loss

    def wrong(batch: LossBatch, config: Any) -> LossOutput:
        found: LossOutput = right(batch, config.model_copy(update=change(config)))
        return found

    return lambda patch: patch.setattr(module, "loss", wrong)


def other_values(change: Callable[..., Tensor]) -> Mutant:
    """RPO with V/tau as `change(right, batch, partition, tau)` has it."""
    return lambda patch: patch.setattr(rpo, "scaled_values", partial(change, rpo.scaled_values))


def of_the_policy(right: Any, batch: LossBatch, partition: Any, tau: float) -> Tensor:
    """Normalised by the policy that learns, with gradient, instead of the reference."""
    mass_N = core.mean_over_row_tokens(batch.logp_NT, batch.mask_NT)
    return (mass_N + batch.rewards_N / tau).logsumexp(0).expand(len(mass_N))


def with_gradient(right: Any, batch: LossBatch, partition: Any, tau: float) -> Tensor:
    """The right value, through which the reference's log-probs and the rewards carry gradient."""
    value_N: Tensor = right(batch, partition, tau)
    leak = (core.require(batch.ref_logp_NT, "ref_logp_NT").sum() + batch.rewards_N.sum()) * 1.0
    return value_N + leak - leak.detach()


def of_the_batch(right: Any, batch: LossBatch, partition: Any, tau: float) -> Tensor:
    one: Tensor = right(replace(batch, prompt_index_N=torch.zeros(len(batch.rewards_N), dtype=torch.long)), partition, tau)
    return one


def times_tau(right: Any, batch: LossBatch, partition: Any, tau: float) -> Tensor:
    value_N: Tensor = right(batch, partition, tau)
    return value_N * tau


def without_the_count(right: Any, batch: LossBatch, partition: Any, tau: float) -> Tensor:
    """log of a sum where mc has a mean."""
    value_N: Tensor = right(batch, partition, tau)
    if partition != "mc" or batch.prompt_index_N is None:
        return value_N
    count_B = torch.bincount(batch.prompt_index_N).to(value_N)
    return value_N + count_B.log()[batch.prompt_index_N]


def exp_then_log(x_N: Tensor, index_N: Tensor) -> Tensor:
    return x_N.new_zeros(int(index_N.max()) + 1).index_add(0, index_N, x_N.exp()).log()


def empty_rows_count(patch: Patch) -> None:
    right = core.nonempty_weights
    patch_core(patch, "nonempty_weights", lambda mask_NT, weight_N: torch.ones_like(right(mask_NT, weight_N)))


def swapped(x_NT: Tensor, mask_NT: Tensor, how: str) -> Tensor:
    return core.mean_over_row_tokens(x_NT, mask_NT) if how == "sum" else core.sum_over_tokens(x_NT, mask_NT)


def value_not_frozen(patch: Patch) -> None:
    """DRO separate as one function of policy and value: no sg on either side."""
    right = Tensor.detach
    patch.setattr(dro.core, "to_floats", lambda metrics: {name: float(right(x)) for name, x in metrics.items()})
    patch.setattr(Tensor, "detach", lambda self: self)


def reference_point_with_gradient(patch: Patch) -> None:
    right = kto._reference_point

    def wrong(batch: LossBatch, config: Any, log_ratio_N: Tensor, weight_N: Tensor) -> Tensor:
        z0 = right(batch, config, log_ratio_N, weight_N)
        source_NT = batch.logp_NT if batch.mismatched_logp_NT is None else batch.mismatched_logp_NT
        mean = source_NT.sum(1).mean()
        return z0 + mean - mean.detach()

    patch.setattr(kto, "_reference_point", wrong)


def of_the_matched(patch: Patch) -> None:
    """z0 from the batch's own pairs, as the public code takes it, where other prompts' responses belong."""
    patch.setattr(kto, "_reference_point", lambda batch, config, log_ratio_N, weight_N: core.expectation_over_rows(
        log_ratio_N, weight_N).clamp(min=0))


def unclamped(patch: Patch) -> None:
    patch.setattr(Tensor, "clamp", lambda self, min=None, max=None: self)


def clamped_by_terms(patch: Patch) -> None:
    right = core.expectation_over_rows
    patch_core(patch, "expectation_over_rows", lambda x_N, weight_N: right(x_N.clamp(min=0), weight_N))


def above_the_threshold(patch: Patch) -> None:
    patch.setattr(Tensor, "__ge__", Tensor.__gt__)


def future_not_detached(patch: Patch) -> None:
    """OREO's policy error through all later tokens: each then carries the gradient of every earlier state."""
    right = core.sums_to_go

    class Attached:
        def __init__(self, x_NT: Tensor) -> None:
            self.x_NT = x_NT

        def detach(self) -> Tensor:
            return self.x_NT

    patch.setattr(oreo.core, "sums_to_go", lambda x_NT, mask_NT: Attached(right(x_NT, mask_NT)))


def own_of_the_token_in_steps(patch: Patch) -> None:
    right = oreo._states
    patch.setattr(oreo, "_states", lambda batch, config, log_ratio_NT: (
        right(batch, config, log_ratio_NT)[0], log_ratio_NT))


def every_token_is_a_state(patch: Patch) -> None:
    right = oreo._states
    patch.setattr(oreo, "_states", lambda batch, config, log_ratio_NT: (
        batch.mask_NT, right(batch, config, log_ratio_NT)[1]))


def later_tokens_only(x_NT: Tensor, mask_NT: Tensor) -> Tensor:
    return torch.nn.functional.pad(core.masked(x_NT, mask_NT).flip(1).cumsum(1).flip(1)[:, 1:], (0, 1))


def R1() -> None:
    dro_oracles.test_R1_policy_and_value_are_right_whatever_the_log("other")


def R1_scale() -> None:
    dro_oracles.test_R1_a_scale_of_all_is_a_scale_of_the_loss("joint")


def R2() -> None:
    oracles.test_R2_with_the_exact_value_the_minimiser_is_the_tilted_policy("paper_logspace", "other")


def R2_mc() -> None:
    oracles.test_R2_with_the_exact_value_the_minimiser_is_the_tilted_policy("mc", "reference")


def underflow() -> None:
    oracles.test_R4_underflow_fp32_holds_responses_that_exp_does_not("paper_logspace")


def overflow() -> None:
    oracles.test_R4_underflow_fp32_holds_responses_that_exp_does_not("mc")


def targets() -> None:
    oracles.test_R4_targets_of_the_specification("repo", 0.1, [1.4, -6.6, -14.6, -22.6])


def repo_gradient() -> None:
    oracles.test_no_gradient_goes_into_the_value("repo")


def whole_group() -> None:
    oracles.test_a_groups_value_is_that_of_all_its_rows_and_of_no_others("repo")


def shift() -> None:
    oracles.test_a_constant_of_a_prompt_falls_out("mc")


def emptied() -> None:
    oracles.test_rows_without_tokens_are_in_no_value("mc")


def alone() -> None:
    oracles.test_a_group_of_one("repo")


def R8() -> None:
    oreo_oracles.test_R8_every_error_is_zero_at_the_tilted_policy_and_its_soft_values("token", "other")


def half() -> None:
    kto_oracles.test_without_sharpness_a_good_response_loses_one_half("canonical")


by_hand = oracles.test_the_value_of_a_ragged_group_hand_worked
parallel = dro_oracles.test_R1_separate_and_joint_gradients_differ_by_tau_alone
dro_by_hand = dro_oracles.test_R1_hand_worked
own_token = oreo_oracles.test_R8_a_token_carries_the_gradient_of_its_own_state_only
own_step = oreo_oracles.test_R8_a_step_carries_the_gradient_of_its_own_state_only
KT1 = kto_oracles.test_KT1_loss_and_gradient_of_either_side
KT2 = kto_oracles.test_KT2_a_common_shift_saturates_the_published_loss_and_not_that_of_the_public_code
KT3 = kto_oracles.test_KT3_the_reference_point_is_a_kl_where_the_policy_drew_and_clamped_where_the_reference_did
of_the_mean = kto_oracles.test_KT3_the_clamp_is_of_the_mean_not_of_the_terms
frozen = kto_oracles.test_the_reference_point_has_no_gradient
public_kto = kto_oracles.test_the_public_codes_variant_hand_worked
kto_emptied = kto_oracles.test_rows_without_tokens_are_not_in_the_reference_point


MUTANTS: dict[str, tuple[Mutant, list[Oracle]]] = {
    "V of the policy that learns": (other_values(of_the_policy), [repo_gradient, R2]),
    "V with a gradient": (other_values(with_gradient), [repo_gradient]),
    "V over the batch": (other_values(of_the_batch), [R2, R2_mc, shift]),
    "V not divided by tau": (other_values(times_tau), [R2, R2_mc, shift]),
    "mc without its count": (other_values(without_the_count), [by_hand, R2_mc]),
    "exp, then log": (core_function("group_logsumexp", exp_then_log), [underflow, overflow]),
    "rows without tokens in V": (empty_rows_count, [emptied, kto_emptied]),
    "mean for sum and sum for mean": (
        core_function("aggregate_tokens", swapped), [R1, R2, targets, dro_by_hand, public_kto]),
    "tau on the wrong side (rpo)": (on_settings(rpo, lambda c: {"tau": 1 / c.tau}), [R2, R2_mc]),
    "tau on the wrong side (dro)": (on_settings(dro, lambda c: {"tau": 1 / c.tau}), [R1, R1_scale, dro_by_hand]),
    "tau fixed (dro)": (on_settings(dro, lambda c: {"tau": 1.0}), [R1_scale, parallel]),
    "no sg in separate": (value_not_frozen, [parallel, dro_by_hand]),
    "z0 with a gradient": (reference_point_with_gradient, [frozen]),
    "z0 of the matched pairs": (of_the_matched, [KT1, of_the_mean]),
    "z0 not clamped": (unclamped, [KT3, of_the_mean]),
    "z0 clamped term by term": (clamped_by_terms, [of_the_mean, public_kto]),
    "the threshold itself is bad": (above_the_threshold, [public_kto]),
    "beta on the wrong side (kto)": (on_settings(kto, lambda c: {"beta": 1 / c.beta}), [KT1, half]),
    "the future carries a gradient": (future_not_detached, [own_token, own_step]),
    "a step's own is its first token's": (own_of_the_token_in_steps, [own_step]),
    "every token is a state at step level": (every_token_is_a_state, [own_step]),
    "to go without the token itself": (core_function("sums_to_go", later_tokens_only), [R8, own_token]),
    "beta on the wrong side (oreo)": (on_settings(oreo, lambda c: {"beta": 1 / c.beta}), [R8, own_token]),
}
CASES = [(name, number) for name, (_, wanted) in MUTANTS.items() for number in range(len(wanted))]


@pytest.mark.parametrize("oracle", list(dict.fromkeys(one for _, wanted in MUTANTS.values() for one in wanted)))
def test_the_package_passes_the_logged_oracle(oracle: Oracle) -> None:
    oracle()


@pytest.mark.parametrize(("name", "number"), CASES)
def test_the_logged_mutant_fails_the_oracle(name: str, number: int, monkeypatch: Patch) -> None:
    mutate, wanted = MUTANTS[name]
    mutate(monkeypatch)
    with pytest.raises(AssertionError):
        wanted[number]()
