"""Wrong variants of GN-IVO and the other group methods, each of which an oracle must catch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import test_gnivo_oracles as gnivo_oracles
import test_group_oracles as group_oracles
import test_laws as laws
import torch
from torch import Tensor
from world import patch_core

from rlfamily import core

Patch = pytest.MonkeyPatch
Mutant = Callable[[Patch], None]
Oracle = Callable[[], None]


def core_function(name: str, wrong: Callable[..., Any]) -> Mutant:
    return lambda patch: patch_core(patch, name, wrong)


def mean_log_ratios(logp_NT: Tensor, other_NT: Tensor, mask_NT: Tensor) -> Tensor:
    return (logp_NT - other_NT.detach()) * mask_NT / mask_NT.sum(1, keepdim=True).clamp(min=1)


def softmax_over_positions(patch: Patch) -> None:
    right = Tensor.log_softmax
    patch.setattr(Tensor, "log_softmax", lambda self, dim: right(self, 2 if self.dim() == 3 else dim))


def weights_not_frozen(pull: Any, rewards_N: Tensor, *others: Any) -> Tensor:
    return rewards_N


def each_member_its_own_t(patch: Patch) -> None:
    right = core.token_prefixes

    def wrong(*given: Any) -> core.Prefixes:
        found = right(*given)
        order_BKQ = torch.rand(found.log_ratio_BKQ.shape, generator=torch.Generator().manual_seed(0)).argsort(2)
        return replace(found, log_ratio_BKQ=found.log_ratio_BKQ.gather(2, order_BKQ))

    patch_core(patch, "token_prefixes", wrong)


def old_not_frozen(logp_NT: Tensor, other_NT: Tensor, mask_NT: Tensor) -> Tensor:
    return torch.where(mask_NT > 0, logp_NT - other_NT, 0.0)


def unmasked(logp_NT: Tensor, other_NT: Tensor, mask_NT: Tensor) -> Tensor:
    return logp_NT - other_NT.detach()


def prefix_without_its_last_token(patch: Patch) -> None:
    right = core.token_prefixes
    patch_core(patch, "token_prefixes", lambda log_ratio_NT, *others: right(
        torch.nn.functional.pad(log_ratio_NT, (1, 0))[:, :-1], *others))


def every_position_for_every_group(patch: Patch) -> None:
    right = core.step_prefixes

    def wrong(*given: Any) -> core.Prefixes:
        found = right(*given)
        return replace(found, count_BQ=torch.ones_like(found.count_BQ))

    patch_core(patch, "step_prefixes", wrong)


def with_replacement(prefixes: core.Prefixes, draws: int | None, generator: Any) -> Tensor:
    if draws is None:
        return prefixes.count_BQ
    drawn_BM = torch.multinomial(prefixes.count_BQ, draws, replacement=True, generator=generator)
    return torch.nn.functional.one_hot(drawn_BM, prefixes.count_BQ.shape[1]).sum(1).to(prefixes.count_BQ)


def last_of_equals(patch: Patch) -> None:
    right = Tensor.argmax
    patch.setattr(Tensor, "argmax", lambda self, dim, keepdim: self.shape[dim] - 1 - right(self.flip(dim), dim, keepdim))


G4_all = gnivo_oracles.test_G4_general_gradient_of_every_prefix
G4_whole = gnivo_oracles.test_G4_general_gradient_of_the_whole_response
X2 = gnivo_oracles.test_X2_what_counts_as_T
steps = gnivo_oracles.test_steps_are_prefixes_that_end_together
short_groups = gnivo_oracles.test_a_group_with_fewer_steps_gets_no_further_t
one_draw = gnivo_oracles.test_the_draw_is_one_for_the_group_and_without_replacement
G7 = gnivo_oracles.test_G7_exponents_that_fp32_cannot_hold_keep_their_proportions
P4 = group_oracles.test_P4_the_three_reductions_of_grpo
winner = group_oracles.test_sft_winning_imitates_the_winner_alone
D1 = group_oracles.test_D1_online_dpo_gradient_of_a_pair_whichever_won
K4 = group_oracles.test_K4_k1_in_the_reward_descends_the_reverse_kl


def G4() -> None:
    gnivo_oracles.test_G4_at_ratio_one_it_is_reinforce_with_a_fading_softmax_advantage(3)


def X1() -> None:
    laws.test_X1_pads_are_inert("gnivo", -3.0)


def frozen() -> None:
    laws.test_gradients_reach_only_the_policy("gnivo")


MUTANTS: dict[str, tuple[Mutant, list[Oracle]]] = {
    "(a) mean over tokens instead of sum": (core_function("log_ratios", mean_log_ratios), [G4_all, G4_whole, D1]),
    "(b) softmax over positions": (softmax_over_positions, [G4, G4_all, steps]),
    "(c) weights not frozen": (core_function("penalised_rewards", weights_not_frozen), [frozen, K4]),
    "(d) each member its own t": (each_member_its_own_t, [one_draw]),
    "(e) old policy with a gradient": (core_function("log_ratios", old_not_frozen), [frozen]),
    "(f) pads in the prefix": (core_function("log_ratios", unmasked), [X1, G4_all]),
    "(g) prefix without its last token": (prefix_without_its_last_token, [G4, G4_all, X2]),
    "short groups get the batch's positions": (every_position_for_every_group, [short_groups]),
    "draws with replacement": (core_function("drawn_counts", with_replacement), [one_draw]),
    "exponents bounded one by one": (
        core_function("bounded_exponents", lambda x: (x.clamp(max=20), (x.max() - 20).clamp(min=0))), [G7]),
    "centred instead of standardised": (
        core_function("group_zscore", core.group_center), [
            group_oracles.test_grpo_hand_worked_with_a_group_that_cannot_tell]),
    "mean over rows instead of tokens": (core_function("token_mean", core.seq_mean_batch_mean), [P4, winner]),
    "the last of equals wins": (last_of_equals, [winner]),
}
CASES = [(name, number) for name, (_, oracles) in MUTANTS.items() for number in range(len(oracles))]
ORACLES = list(dict.fromkeys(oracle for _, oracles in MUTANTS.values() for oracle in oracles))


@pytest.mark.parametrize("oracle", ORACLES)
def test_the_package_passes_the_group_oracle(oracle: Oracle) -> None:
    oracle()


@pytest.mark.parametrize(("name", "number"), CASES)
def test_the_group_mutant_fails_the_oracle(name: str, number: int, monkeypatch: Patch) -> None:
    mutate, oracles = MUTANTS[name]
    mutate(monkeypatch)
    with pytest.raises(AssertionError):
        oracles[number]()
