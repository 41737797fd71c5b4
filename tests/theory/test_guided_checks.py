"""What the theory stage computes for inference-time methods: I1 to I3, I6, I7, I9, I10, Q1 to Q4, PR1, PR2, W1, B1, C1, A1, TB5."""

from __future__ import annotations

import json
import math
from itertools import product
from typing import Any

import pytest
import torch
from small import place
from torch import Tensor

from rlfamily.stages.kinds import theory
from rlfamily.theory import checks, guided, guided_checks
from rlfamily.theory.guided import Tree
from rlfamily.theory.tilting import soft_values
from rlfamily.theory.world import build, drawn

SEEDS = [0, 1, 2]
EXACT = 1e-10
DRAWN = 20_000


def rows(check: str, seed: int = 0, **where: Any) -> list[dict[str, Any]]:
    found = checks.run([check], seed, lambda done, total, note: None)
    return [row for row in found if all(row[key] == value for key, value in where.items())]


def values(check: str, seed: int = 0, **where: Any) -> list[float]:
    return [row["value"] for row in rows(check, seed, **where)]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("check", sorted(guided_checks.CHECKS))
def test_what_should_be_exact_is(check: str, seed: int) -> None:
    for row in rows(check, seed):
        if row.get("expected") == 0:
            assert abs(row["value"]) < EXACT, row
        assert math.isfinite(row["value"])
    assert guided_checks.CHECKS[check].__doc__


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("beta", guided_checks.BETAS)
def test_I2_every_iteration_improves_and_I3_one_plain_step_is_not_the_optimum(seed: int, beta: float) -> None:
    (most,) = values("guided_improvement", seed, iterations="all", beta=beta)
    for schedule in guided_checks.SCHEDULES:
        found = values("guided_improvement", seed, schedule=schedule, beta=beta)
        assert found == sorted(found) and found[0] < found[-1] < most and len(found) == 4
    (plain,), (base,) = (values("guided_one_step", seed, of=of, beta=beta) for of in ("plain", "base"))
    assert 1e-5 < plain < base
    assert values("guided_offset", seed, beta=beta)[0] > 1e-6


@pytest.mark.parametrize("seed", SEEDS)
def test_I10_drawing_approximates_and_choosing_the_best_does_not(seed: int) -> None:
    for beta in guided_checks.BETAS:
        by_number = values("guided_resampling", seed, way="drawn", beta=beta)
        assert by_number == sorted(by_number, reverse=True) and by_number[-1] < by_number[0] / 5
        best = values("guided_resampling", seed, way="best", beta=beta)
        assert best[-1] > max(0.1, by_number[-1]) and best[-1] > best[-3]


def test_I7_as_numbers() -> None:
    top, diverse, wrong, wrong_diverse = values("guided_search")
    assert min(top, diverse) > 0.05 > 0 > wrong_diverse > wrong + 0.2


def test_B1_C1_PR1_PR2_as_numbers() -> None:
    for row in rows("guided_best_of_n", of="divergence"):
        assert 0.8 * row["expected"] < row["value"] < row["expected"]
    for beta in guided_checks.BETAS:
        assert values("guided_cards", of="20 retries", beta=beta) < values("guided_cards", of="1 retries", beta=beta)
        assert values("guided_cards", of="exponential", beta=beta, threshold="median")[0] > 0.05
    assert values("guided_success") == pytest.approx([(1 - 0.75**2) ** 4, 0.0625, 1 - (255 / 256) ** 16, 0.0625])
    assert values("guided_success")[::2] == pytest.approx([0.0366, 0.0607], abs=5e-5)
    for row in rows("guided_costs", of="tokens"):
        assert row["value"] == row["expected"]
    assert [round(row["value"] / row["expected"], 3) for row in rows("guided_costs", horizon=8)][1::3] == [1.333, 1.333]


def test_TB5_nodes_of_figure_2() -> None:
    assert values("guided_nodes") == [30, 8, 1, 3.75, 8]


def test_a_tree_hand_worked() -> None:
    # two tokens of two words, 0 ends: y = (0), (1 0), (1 1); nodes: "" 0, "1" 1, then the three responses
    nodes = guided.tree(build(2, 2, True))
    assert nodes.child_SV.tolist() == [[2, 1], [3, 4]]
    logits, rewards_M = torch.tensor([[0.25, 0.75], [0.5, 0.5]]).double().log(), torch.tensor([4.0, 2, 6]).double()
    assert guided.plain_values(nodes, logits, rewards_M).tolist() == pytest.approx([4, 4, 4, 2, 6])
    assert guided.best_values(nodes, rewards_M).tolist() == [6, 6, 4, 2, 6]
    assert guided.reach(nodes, logits).exp().tolist() == pytest.approx([1, 0.75, 0.25, 0.375, 0.375])
    assert guided.continuations(nodes, logits.exp(), 0, 2) == pytest.approx({2: 0.25, 3: 0.375, 4: 0.375})
    best = guided.best_of_n(guided.law(nodes, logits), rewards_M, 2)
    assert best.tolist() == pytest.approx([0.625**2 - 0.375**2, 0.375**2, 1 - 0.625**2])
    tied = guided.best_of_n(guided.law(nodes, logits), torch.zeros(3).double(), 5)
    torch.testing.assert_close(tied, guided.law(nodes, logits))  # the first drawn of equal ones


def test_soft_values_are_those_of_the_tilted_policy() -> None:
    world, base, rewards_M = drawn(1, 3, 3, True)
    found_X = guided.soft_values(guided.tree(world), base, rewards_M, 0.7)
    values_MT = soft_values(world, base, rewards_M, 0.7)
    torch.testing.assert_close(found_X[world.state_MT[world.mask_MT > 0]], values_MT[:, :-1][world.mask_MT > 0])


def test_choices_hand_worked() -> None:
    pool = (7, 7, 8, 9)
    score_X = torch.tensor([0.0] * 7 + [2, 0, 3]).double()
    assert list(guided.top(score_X, 2)(pool)) == [((7, 9), 1.0)] == list(guided.diverse(score_X, 2)(pool))
    assert list(guided.top(score_X, 3)(pool)) == [((7, 7, 9), 1.0)]
    assert list(guided.diverse(score_X, 3)(pool)) == [((7, 8, 9), 1.0)]
    assert list(guided.diverse(score_X, 4)(pool)) == [(pool, 1.0)]
    found: dict[Any, float] = {}
    for chosen, share in guided.resampled(torch.tensor([0.0] * 7 + [2, 1, 3]).double().log(), 2)(pool):
        found[chosen] = found.get(chosen, 0.0) + share
    assert sum(found.values()) == pytest.approx(1)
    assert found[7, 7] == pytest.approx(4 / 8 * 2 / 6)
    assert found[7, 8] == pytest.approx(4 / 8 * 1 / 6 + 1 / 8 * 4 / 7)


def test_masking_keeps_the_likeliest_tokens() -> None:
    nodes = guided.tree(build(3, 1, False))
    logits = torch.tensor([[0.0, 2.0, 1.0]]).double()
    found_M = guided.law(nodes, guided.controlled(nodes, logits, torch.tensor([0.0, 9, 0, 0]).double(), 1.0, top_k=2))
    assert found_M.tolist() == pytest.approx([0, 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1))])
    assert guided.law(nodes, guided.args(nodes, logits, torch.tensor([0.0, 9, 0, 1.5]).double(), 1.0, 2)).tolist() == [0, 0, 1]


def simulated(nodes: Tree, base: Tensor, score_X: Tensor, rewards_M: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Frequencies of Algorithm 4, written as it is printed, one draw at a time."""
    chance, (width, children, length) = torch.Generator().manual_seed(0), shape
    p_SV, count_M = base.softmax(1), torch.zeros_like(rewards_M)
    for _ in range(DRAWN // 10):
        pool = [0] * width * children
        while True:
            for index, start in enumerate(pool):
                node = start
                for _ in range(length):
                    if node < nodes.prefixes:
                        node = int(nodes.child_SV[node, int(torch.multinomial(p_SV[node], 1, generator=chance))])
                pool[index] = node
            if min(pool) >= nodes.prefixes:
                break
            parents = sorted(pool, key=lambda node: -float(score_X[node]))[:width]
            pool = [node for node in parents for _ in range(children)]
        count_M[max((node - nodes.prefixes for node in pool), key=lambda m: float(rewards_M[m]))] += 1
    return count_M / count_M.sum()


@pytest.mark.parametrize("shape", [(2, 2, 1), (1, 3, 2)])
def test_the_law_of_search_is_what_running_it_gives(shape: tuple[int, int, int]) -> None:
    world, base, rewards_M = drawn(2, 3, 3, True)
    nodes = guided.tree(world)
    score_X = guided.plain_values(nodes, base, rewards_M)
    law_M = guided.search(nodes, base, shape, guided.top(score_X, shape[0]), guided.top(guided.best_values(nodes, rewards_M), 1))
    found_M = simulated(nodes, base, score_X, rewards_M, shape)
    error_M = (law_M * (1 - law_M) / (DRAWN // 10)).sqrt()
    assert law_M.sum().item() == pytest.approx(1)
    assert bool(((found_M - law_M).abs() <= 5 * error_M + 1e-9).all())


def test_the_law_of_cards_is_what_running_it_gives() -> None:
    world, base, rewards_M = drawn(2, 3, 2, True)
    p_M, chance = world.probability(base), torch.Generator().manual_seed(0)
    law_M = guided.cards(p_M, rewards_M, 1.0, 0.7, 2)
    drawn_D3 = torch.multinomial(p_M.expand(DRAWN, -1), 3, replacement=True, generator=chance)
    accepted_D3 = torch.rand(DRAWN, 3, generator=chance).double() < guided.acceptance(rewards_M, 1.0, 0.7)[drawn_D3]
    best_D = drawn_D3.gather(1, rewards_M[drawn_D3].argmax(1, keepdim=True))[:, 0]
    found_D = torch.where(accepted_D3[:, 0], drawn_D3[:, 0], torch.where(accepted_D3[:, 1], drawn_D3[:, 1], best_D))
    error_M = (law_M * (1 - law_M) / DRAWN).sqrt()
    assert law_M.sum().item() == pytest.approx(1)
    assert bool(((torch.bincount(found_D, minlength=len(p_M)) / DRAWN - law_M).abs() <= 5 * error_M).all())


def test_best_of_n_is_what_all_tuples_give() -> None:
    world, base, rewards_M = drawn(3, 2, 2, False)
    p_M, expected_M = world.probability(base), torch.zeros(4).double()
    for some in product(range(4), repeat=3):
        expected_M[max(some, key=lambda m: float(rewards_M[m]))] += p_M[list(some)].prod()
    torch.testing.assert_close(guided.best_of_n(p_M, rewards_M, 3), expected_M)


def test_guided_checks_use_no_method() -> None:
    assert not list(theory.uses(theory.Config(checks=sorted(guided_checks.CHECKS), seed=0)))


def test_every_row_can_be_told_from_the_others_and_written(tmp_path: Any) -> None:
    here = place(tmp_path)
    theory.run(here, theory.Config(checks=sorted(guided_checks.CHECKS), seed=0), theory.Inputs())
    found = [json.loads(line) for line in (here.out / "theory.jsonl").read_text().splitlines()]
    keys = [tuple(sorted((k, str(v)) for k, v in row.items() if k not in {"value", "expected", "se", "item"})) for row in found]
    assert len(keys) == len(set(keys)) and {row["check"] for row in found} == set(guided_checks.CHECKS)
