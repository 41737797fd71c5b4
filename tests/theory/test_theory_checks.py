"""What the theory stage computes is what the theory says: G1, G2, G2n, G3, G5, G6, and where the theory fails."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from small import place

from rlfamily.algorithms import gnivo as method
from rlfamily.errors import UserError
from rlfamily.stages.kinds import theory
from rlfamily.theory import checks, gnivo
from rlfamily.theory.tilting import divergence, minimiser, prefix_probability, soft_values, tilted
from rlfamily.theory.world import build, ordered_groups, unordered_groups


def silent(done: int, total: int, note: str) -> None:
    pass


def values(check: str, seed: int = 0, **where: Any) -> list[float]:
    rows = checks.run([check], seed, silent)
    return [row["value"] for row in rows if all(row[key] == value for key, value in where.items())]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_G1_log_ratios_of_prefixes_are_values(seed: int) -> None:
    assert max(values("theorem_3_1", seed)) < 1e-12


def test_soft_values_hand_worked() -> None:
    # two tokens of two words, all even; exp(R/alpha) = (1, 2, 3, 6): V = log((1 + 2)/2), log((3 + 6)/2), log 3
    world = build(2, 2, False)
    rewards_M = torch.tensor([1.0, 2, 3, 6], dtype=torch.float64).log()
    logits = torch.zeros(world.num_states, 2, dtype=torch.float64)
    found = soft_values(world, logits, rewards_M, 1.0).exp()
    assert found[0].tolist() == pytest.approx([3, 1.5, 1])
    assert found[3].tolist() == pytest.approx([3, 4.5, 6])
    assert tilted(world, logits, rewards_M, 1.0).tolist() == pytest.approx([1 / 12, 2 / 12, 3 / 12, 6 / 12])
    assert prefix_probability(world, world.probability(logits))[0].tolist() == pytest.approx([0.5, 0.25])


def test_unordered_groups_are_the_ordered_ones_gathered() -> None:
    probability_M = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    for size in (2, 3, 4):
        many, few = ordered_groups(probability_M, size), unordered_groups(probability_M, size)
        assert few.weight_B.sum().item() == pytest.approx(1) == many.weight_B.sum().item()
        first = few.index_N.view(-1, size).sort(1).values.tolist()
        gathered = dict.fromkeys(map(tuple, first), 0.0)
        for group, weight in zip(many.index_N.view(-1, size).sort(1).values.tolist(), many.weight_B.tolist(), strict=True):
            gathered[tuple(group)] += weight
        assert list(gathered.values()) == pytest.approx(few.weight_B.tolist())


def test_a_policy_is_rebuilt_from_its_probabilities() -> None:
    world = build(3, 3, True)
    probability_M = world.probability(world.logits(0).detach())
    torch.testing.assert_close(world.probability(world.policy(probability_M)), probability_M)


def test_the_minimiser_is_found_to_full_precision() -> None:
    target = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
    found = minimiser(torch.zeros(2, 2, dtype=torch.float64), lambda x: (x - target).square().sum() + (x - target).exp().sum()
                      - (x - target).sum())
    torch.testing.assert_close(found, target, rtol=0, atol=1e-12)


def test_G2_unnormalised_values_are_right_and_G2n_normalised_are_wrong() -> None:
    rows = list(checks.run(["theorem_3_2"], 0, silent))
    for row in rows:
        if row["weights"] == "unnormalised":
            assert row["value"] < 1e-8, row
        else:
            assert row["value"] > 0.1, row


SMALL = build(2, 3, True)


def divergence_of(weights: str, variant: str, size: int, t_mode: str = "max_new_tokens") -> float:
    logits, rewards_M = SMALL.logits(0).detach(), SMALL.rewards(0)
    config = gnivo.settings(variant=variant, weights=weights, alpha=0.7, t_mode=t_mode, max_length=3)
    groups = unordered_groups(SMALL.probability(logits), size)
    found = gnivo.learned_policy(SMALL, logits, rewards_M, groups, config)
    return divergence(SMALL.probability(found), tilted(SMALL, logits, rewards_M, 0.7))


@pytest.mark.parametrize("size", [2, 3])
def test_G3_the_minimiser_of_equation_9_is_the_tilted_policy(size: int) -> None:
    assert divergence_of("unnormalised", "sequential", size) < 1e-12


@pytest.mark.parametrize("size", [2, 3, 4])
def test_G3_onestep_normalised_weights_are_right_for_whole_responses(size: int) -> None:
    assert divergence_of("normalised", "one_step", size, "group_max") < 1e-12


def test_G3_norm_normalised_weights_are_wrong_for_prefixes_and_less_so_in_larger_groups() -> None:
    found = [divergence_of("normalised", "sequential", size) for size in (2, 4, 8)]
    assert found[0] > 1e-4
    assert found[0] > found[1] > found[2] > 1e-7


def test_T_of_the_group_is_one_more_thing_that_knows_the_future() -> None:
    assert divergence_of("unnormalised", "sequential", 2, "group_max") > 1e-9


def test_weights_normalised_by_other_groups_are_right() -> None:
    # the gradient at pi*, in expectation over all batches of two independent groups, is 0; in-group weights are not
    world = build(2, 2, False)
    logits, rewards_M = world.logits(0).detach(), world.rewards(0)
    best = world.policy(tilted(world, logits, rewards_M, 0.7)).requires_grad_()
    groups = unordered_groups(world.probability(logits), 2)
    size = {}
    for weights in ("batch_norm", "normalised"):
        loss = sum(weight * method.loss(both.batch(world, world.logp(best), world.logp(logits), rewards_M),
                                          gnivo.settings(weights=weights, alpha=0.7)).loss
                   for weight, both in gnivo.group_pairs(groups))
        size[weights] = torch.autograd.grad(loss, best)[0].norm().item()
    assert size["batch_norm"] < 1e-13 and size["normalised"] > 1e-3


def test_C33_constants_of_the_values_do_not_matter() -> None:
    assert max(values("corollary_3_3")) < 1e-12


def test_G6_outer_iterations_sharpen_without_end() -> None:
    assert max(values("repeated")) < 1e-12
    best = values("repeated_argmax")
    assert best == sorted(best) and best[-1] > 0.95


def test_G5_both_sides_must_have_the_temperature() -> None:
    rows = list(checks.run(["temperature"], 0, silent))
    assert [(row["variant"], row["matched"]) for row in rows if row["value"] > 1e-12] == [("sequential", False)]
    assert max(row["value"] for row in rows) > 1e-4


def test_G4_G7_G8_as_numbers() -> None:
    assert max(values("gradient_at_old")) < 1e-12
    assert values("group_scale") == pytest.approx([30, 15])
    for row in checks.run(["draw_variance", "draw_bias"], 1, silent):
        assert abs(row["value"] - row["expected"]) < 5 * row["se"] + 1e-12


def test_the_stage_writes_a_line_a_number(tmp_path: Any) -> None:
    here = place(tmp_path)
    config = theory.Config(checks=["theorem_3_1", "group_scale"], seed=0)
    assert theory.run(here, config, theory.Inputs()) == {"numbers": 4}
    rows = [json.loads(line) for line in (here.out / "theory.jsonl").read_text().splitlines()]
    assert [(row["check"], row["item"]) for row in rows] == [
        ("theorem_3_1", 0), ("theorem_3_1", 1), ("group_scale", 0), ("group_scale", 1)]
    assert all({"value", "expected", "se", "alpha"} <= set(row) for row in rows)


def test_an_unknown_check_is_refused_with_its_nearest() -> None:
    with pytest.raises(UserError, match="theorem_3_1"):
        list(checks.run(["theorem_31"], 0, silent))
