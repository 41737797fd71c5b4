"""Wrong variants of the losses, each of which an oracle must catch: a test that no mistake can fail
proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import test_laws as laws
import test_rloo_oracles as rloo_oracles
import test_supervised_oracles as supervised_oracles
import test_topr_oracles as topr_oracles
import torch
from torch import Tensor
from world import close, loss_grad, patch_core, rows

from rlfamily import core
from rlfamily.algorithms import LossBatch, LossOutput, dpo, rloo, sft, topr
from rlfamily.core import divergences

Patch = pytest.MonkeyPatch
Mutant = Callable[[Patch], None]
Oracle = Callable[[], None]


def core_function(name: str, wrong: Callable[..., Any]) -> Mutant:
    return lambda patch: patch_core(patch, name, wrong)


def on_batch(module: Any, change: Callable[[LossBatch], LossBatch]) -> Mutant:
    """The loss, fed a batch that a mistaken author would have built."""
    right = module.loss

    def wrong(batch: LossBatch, config: Any) -> LossOutput:
        found: LossOutput = right(change(batch), config)
        return found

    return lambda patch: patch.setattr(module, "loss", wrong)


def ratio_not_detached(patch: Patch) -> None:
    patch.setattr(
        topr,
        "_log_ratios",
        lambda batch, config: core.sum_over_tokens(
            batch.logp_NT - batch.old_logp_NT, batch.mask_NT
        )[:, None].expand_as(batch.logp_NT),
    )


def ratio_per_token(patch: Patch) -> None:
    patch.setattr(
        topr,
        "_log_ratios",
        lambda batch, config: core.log_ratios(
            batch.logp_NT.detach(), batch.old_logp_NT, batch.mask_NT
        ),
    )


def ratio_of_probabilities(patch: Patch) -> None:
    patch.setattr(
        topr,
        "_log_ratios",
        lambda batch, config: (
            (
                core.sequence_logprobs(batch.logp_NT.detach(), batch.mask_NT).exp()
                / core.sequence_logprobs(batch.old_logp_NT, batch.mask_NT).exp()
            )
            .log()[:, None]
            .expand_as(batch.logp_NT)
        ),
    )


def taper_on_positives(patch: Patch) -> None:
    patch.setattr(topr, "_limits", lambda config, tau: ((0.0, tau), (0.0, tau)))


def signs_of_limits_swapped(patch: Patch) -> None:
    right = topr._limits
    patch.setattr(topr, "_limits", lambda config, tau: right(config, tau)[::-1])


def clip_of_surrogate_is_maximum(patch: Patch) -> None:
    patch.setattr(torch, "maximum", torch.minimum)


def kl_in_the_other_place(patch: Patch) -> None:
    right = rloo.loss

    def wrong(batch: LossBatch, config: Any) -> LossOutput:
        place = "loss" if config.kl.place == "reward" else "reward"
        return right(
            batch, config.model_copy(update={"kl": config.kl.model_copy(update={"place": place})})
        )

    patch.setattr(rloo, "loss", wrong)


def kl_of_the_other_form(patch: Patch) -> None:
    right: Callable[[Tensor, str], Tensor] = core.kl_per_token  # type: ignore[assignment]
    other = {"k1": "k2", "k2": "k3", "k3": "k2"}
    patch.setattr(divergences, "kl_per_token", lambda x, form: right(x, other[form]))


def unmasked(logp_NT: Tensor, other_NT: Tensor, mask_NT: Tensor) -> Tensor:
    return logp_NT - other_NT.detach()


def mean_log_ratios(logp_NT: Tensor, other_NT: Tensor, mask_NT: Tensor) -> Tensor:
    return (logp_NT - other_NT) * mask_NT / mask_NT.sum(1, keepdim=True)


def summed(x_NT: Tensor, mask_NT: Tensor) -> Tensor:
    return x_NT.sum(1)


def plain_mean(x_N: Tensor, row_weight_N: Tensor | None) -> Tensor:
    return x_N.mean()


def without_eos(batch: LossBatch) -> LossBatch:
    position_T = torch.arange(batch.mask_NT.shape[1])
    return replace(
        batch, mask_NT=batch.mask_NT * (position_T != batch.mask_NT.sum(1, keepdim=True) - 1)
    )


def swapped_pairs(batch: LossBatch) -> LossBatch:
    return replace(
        batch, logp_NT=batch.logp_NT.view(-1, 2, batch.logp_NT.shape[1]).flip(1).flatten(0, 1)
    )


def per_row_then_mean(x_NT: Tensor, mask_NT: Tensor, row_weight_N: Tensor | None) -> Tensor:
    return core.seq_mean_batch_mean(x_NT, mask_NT, row_weight_N)


def L1() -> None:
    rloo_oracles.test_L1_expected_gradient_is_the_policy_gradient(2)


def K4() -> None:
    rloo_oracles.test_K4_k1_in_the_reward_descends_the_reverse_kl_of_whole_sequences(
        rloo_oracles.WORLD, "none"
    )


def K2() -> None:
    rloo_oracles.test_K2_k2_in_the_loss_descends_the_reverse_kl(rloo_oracles.WORLD)


def K3() -> None:
    rloo_oracles.test_K3_k3_in_the_loss_descends_the_forward_kl(rloo_oracles.WORLD)


P2 = rloo_oracles.test_P2_the_clip_stops_only_what_already_went_far_enough
T1 = topr_oracles.test_T1_expected_gradient_is_equation_5
T3 = topr_oracles.test_T3_the_ratio_is_detached
T4 = topr_oracles.test_T4_the_reports_taper_contradicts_equation_5_on_positives
T8 = topr_oracles.test_T8_three_ratios_give_three_gradients
D1 = supervised_oracles.test_D1_gradient_of_a_pair
D2 = supervised_oracles.test_D2_with_bradley_terry_labels_the_minimiser_is_the_tilted_reference
SFT = supervised_oracles.test_sft_is_the_mean_nll_per_token


def T6() -> None:
    topr_oracles.test_T6_greedy_groups_have_no_leave_one_out_signal()


def X1_rloo() -> None:
    laws.test_X1_pads_are_inert("rloo", -3.0)


def X1_ratio() -> None:
    laws.test_X1_pads_are_inert("rloo, sequence ratio", -3.0)


def X3_rloo() -> None:
    laws.test_X3_dropping_eos_changes_the_objective("rloo")


def X3_topr() -> None:
    laws.test_X3_dropping_eos_changes_the_objective("topr")


def fp32() -> None:
    laws.test_fp32_stays_finite_at_any_log_ratio("rloo, sequence ratio", 500.0)


def underflow() -> None:
    # two responses of about -240 nats; their ratio is e^-1, their probabilities are 0 in fp32
    batch = rows([[-241.0]], rewards=[-1.0], old=[[-240.0]], dtype=torch.float32)
    found = loss_grad("topr", batch, topr_oracles.settings())
    close(found, torch.full((1, 1), -1.0).exp(), 1e-6)


MUTANTS: dict[str, tuple[Mutant, list[Oracle]]] = {
    "ratio not detached": (ratio_not_detached, [T1, T3]),
    "ratio per token where it is of the sequence": (ratio_per_token, [T1, T8]),
    "ratio of probabilities": (ratio_of_probabilities, [underflow]),
    "taper on positives": (taper_on_positives, [T1, T4]),
    "limits of the wrong sign": (signs_of_limits_swapped, [T1, T4]),
    "baseline includes self": (core_function("group_leave_one_out", core.group_center), [L1, K4]),
    "standardised advantage": (core_function("group_leave_one_out", core.group_zscore), [L1]),
    "no baseline on greedy groups": (core_function("group_leave_one_out", lambda r, k: r), [T6]),
    "mean instead of sum (rloo)": (
        core_function("sequence_logprobs", core.mean_over_row_tokens),
        [L1],
    ),
    "mean instead of sum (topr)": (
        core_function("seq_sum_batch_mean", core.seq_mean_batch_mean),
        [T1],
    ),
    "mean instead of sum (dpo)": (core_function("log_ratios", mean_log_ratios), [D1, D2]),
    "clip takes the maximum": (clip_of_surrogate_is_maximum, [P2]),
    "kl in the wrong place": (kl_in_the_other_place, [K2, K3, K4]),
    "kl of the wrong form": (kl_of_the_other_form, [K2, K3, K4]),
    "pads in the sum": (core_function("sequence_logprobs", summed), [X1_rloo, L1]),
    "pads in the ratio": (core_function("log_ratios", unmasked), [D1, X1_ratio]),
    "EOS dropped (rloo)": (on_batch(rloo, without_eos), [L1, X3_rloo]),
    "EOS dropped (topr)": (on_batch(topr, without_eos), [T1, X3_topr]),
    "row weights ignored": (core_function("expectation_over_rows", plain_mean), [L1, D2]),
    "pair swapped": (on_batch(dpo, swapped_pairs), [D1, D2]),
    "mean over rows, not tokens (sft)": (core_function("token_mean", per_row_then_mean), [SFT]),
    "plain exponential": (core_function("bounded_exp", torch.exp), [fp32]),
    "sft on everything": (
        on_batch(sft, lambda b: replace(b, mask_NT=torch.ones_like(b.mask_NT))),
        [SFT],
    ),
}
CASES = [(name, number) for name, (_, oracles) in MUTANTS.items() for number in range(len(oracles))]


ORACLES = list(dict.fromkeys(oracle for _, oracles in MUTANTS.values() for oracle in oracles))


@pytest.mark.parametrize("oracle", ORACLES)
def test_the_package_passes_the_oracle(oracle: Oracle) -> None:
    oracle()


@pytest.mark.parametrize(("name", "number"), CASES)
def test_the_mutant_fails_the_oracle(name: str, number: int, monkeypatch: Patch) -> None:
    mutate, oracles = MUTANTS[name]
    mutate(monkeypatch)
    with pytest.raises(AssertionError):
        oracles[number]()
