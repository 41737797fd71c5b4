"""RPO on logged responses against closed forms (R2, R3, R4): fixed points, targets, biases, long responses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from logs import LARGE, SMALL, start
from torch import Tensor
from world import close, config, grad, rows

from rlfamily.algorithms import LossBatch, rpo
from rlfamily.theory import logged
from rlfamily.theory.tilting import divergence, minimiser, tilted

MEAN, SUM = "mean", "sum"
LOG_RATIO = {"repo": MEAN, "mass_normalised": MEAN, "mc": SUM, "paper_logspace": SUM, "none": MEAN}
LONG = ((1.2, 0.4, -0.4, -1.2), (-1.4, -1.6, -1.5, -1.8), 150)
every_partition = pytest.mark.parametrize("partition", LOG_RATIO)


def settings(partition: str, tau: float, log_ratio: str | None = None) -> rpo.Config:
    found: rpo.Config = config("rpo", partition=partition, tau=tau, log_ratio=log_ratio or LOG_RATIO[partition])
    return found


def targets(batch: LossBatch, partition: Any, tau: float) -> Tensor:
    """(r - V)/tau of each row."""
    return batch.rewards_N / tau - rpo.scaled_values(batch, partition, tau)


def two_prompts(logits: list[Tensor], rewards: list[Tensor], weights: list[Tensor | None]) -> LossBatch:
    """All responses to one prompt, then all to another that has fewer: groups of 7 and 3 rows."""
    parts = [logged.whole_log(world, own, start(world)[0], rewards_M, None)
             for world, own, rewards_M in zip((LARGE, SMALL), logits, rewards, strict=True)]
    fields = {name: torch.cat([getattr(part, name) for part in parts])
              for name in ("logp_NT", "mask_NT", "rewards_N", "ref_logp_NT")}
    weight_N = None if weights[0] is None else torch.cat([one for one in weights if one is not None])
    return LossBatch(**fields, group_size=0, row_weight_N=weight_N, prompt_index_N=torch.tensor([0] * 7 + [1] * 3))


def both_minimised(partition: str, tau: float, log: str) -> float:
    """The larger KL from pi* of the two prompts' policies that minimise RPO's loss together."""
    refs, rewards = zip(*map(start, (LARGE, SMALL)), strict=True)
    weights = [logged.log_weights(world, ref, log, 0) for world, ref in zip((LARGE, SMALL), refs, strict=True)]
    cut = refs[0].numel()

    def split(both_P: Tensor) -> list[Tensor]:
        return [both_P[:cut].view_as(refs[0]), both_P[cut:].view_as(refs[1])]

    found_P = minimiser(torch.cat([ref.flatten() for ref in refs]), lambda both_P: rpo.loss(
        two_prompts(split(both_P), list(rewards), weights), settings(partition, tau)).loss)
    return max(divergence(world.probability(found), tilted(world, ref, rewards_M, tau)) for world, found, ref, rewards_M
               in zip((LARGE, SMALL), split(found_P), refs, rewards, strict=True))


# ---------------------------------------------------------------------------- R2: RPO with the exact V*


@pytest.mark.parametrize(("partition", "log"), [
    ("paper_logspace", "reference"), ("paper_logspace", "uniform"), ("paper_logspace", "other"), ("mc", "reference")])
def test_R2_with_the_exact_value_the_minimiser_is_the_tilted_policy(partition: str, log: str) -> None:
    assert both_minimised(partition, 0.3, log) < 1e-12


@pytest.mark.parametrize(("partition", "log"), [("mc", "uniform"), ("repo", "reference"), ("none", "reference")])
def test_R2_with_another_value_or_log_ratio_it_is_not(partition: str, log: str) -> None:
    assert both_minimised(partition, 0.3, log) > 1e-3


def ragged(**fields: Any) -> LossBatch:
    """Groups of 1, 3 and 2 responses whose rows are mixed."""
    generator = torch.Generator().manual_seed(3)
    ref_NT, move_NT = torch.rand(2, 6, 4, generator=generator, dtype=torch.float64)
    mask_NT = (torch.arange(4) < torch.tensor([4, 2, 1, 3, 2, 4])[:, None]).double()
    given = {"rewards_N": torch.tensor([2.0, -2.0, 0.0, -1.0, 2.0, 1.0], dtype=torch.float64),
             "prompt_index_N": torch.tensor([1, 0, 2, 1, 1, 2])} | fields
    return LossBatch((move_NT - 2).requires_grad_(), mask_NT, given.pop("rewards_N"), 0, ref_logp_NT=ref_NT - 2, **given)


@every_partition
def test_a_constant_of_a_prompt_falls_out(partition: str) -> None:
    batch, constant_B = ragged(), torch.tensor([5.0, -3.0, 11.0], dtype=torch.float64)
    assert batch.prompt_index_N is not None
    raised = replace(batch, rewards_N=batch.rewards_N + constant_B[batch.prompt_index_N])
    before, after = (rpo.loss(one, settings(partition, 0.7)).loss for one in (batch, raised))
    if partition == "none":
        assert (after - before).abs() > 1
    else:
        close(after, before)


@every_partition
def test_a_groups_value_is_that_of_all_its_rows_and_of_no_others(partition: Any) -> None:
    batch = ragged()
    whole_N = targets(batch, partition, 0.7)
    for index_N in ([1], [0, 3, 4], [2, 5]):
        alone = replace(batch, **{name: getattr(batch, name)[index_N] for name in (
            "logp_NT", "mask_NT", "rewards_N", "ref_logp_NT")}, prompt_index_N=None, group_size=len(index_N))
        close(targets(alone, partition, 0.7), whole_N[index_N])


def test_the_value_of_a_ragged_group_hand_worked() -> None:
    # group 0: rewards 0 and log 3; group 1: reward 5; mean log-probs log 1/2, log 1/4, log 1/8
    half = torch.tensor(0.5).double().log().item()
    batch = rows([[-1.0, 0.0], [-1.0, -1.0], [-1.0, -1.0]], [[1, 0], [1, 1], [1, 1]], [0.0, 5.0, torch.tensor(3.0).log().item()],
                 0, ref=[[half, 9.0], [3 * half, 3 * half], [half, 3 * half]], prompt_index_N=torch.tensor([0, 1, 0]))
    found = {name: rpo.scaled_values(batch, name, 1.0).exp().tolist() for name in LOG_RATIO}  # type: ignore[arg-type]
    e5 = torch.tensor(5.0).double().exp().item()
    assert found["mc"] == pytest.approx([2, e5, 2])  # (1 + 3)/2
    assert found["repo"] == pytest.approx([5 / 4, e5 / 8, 5 / 4])  # 1/2 + 3/4
    assert found["mass_normalised"] == pytest.approx([5 / 3, e5, 5 / 3])  # over 1/2 + 1/4
    assert found["paper_logspace"] == pytest.approx([11 / 16, e5 / 64, 11 / 16])  # 1/2 + 3/16
    assert found["none"] == [1, 1, 1]


@every_partition
def test_rows_without_tokens_are_in_no_value(partition: str) -> None:
    batch = ragged()
    empty = replace(batch, mask_NT=batch.mask_NT.index_fill(0, torch.tensor([1, 3]), 0))
    kept_N = torch.tensor([0, 2, 4, 5])
    rest = replace(batch, **{name: getattr(batch, name)[kept_N] for name in (
        "mask_NT", "rewards_N", "ref_logp_NT", "prompt_index_N")}, logp_NT=batch.logp_NT[kept_N].detach().requires_grad_())
    found, expected = (rpo.loss(one, settings(partition, 0.7)) for one in (empty, rest))
    close(found.loss, expected.loss)
    assert found.metrics == pytest.approx(expected.metrics)
    close(grad(found.loss, batch.logp_NT)[kept_N], grad(expected.loss, rest.logp_NT))


@every_partition
def test_a_group_of_one(partition: Any) -> None:
    batch = rows([[-1.0, -1.0]], rewards=[7.0], ref=[[-0.5, -1.5]], prompt_index_N=torch.tensor([0]))
    expected = {"mc": 0.0, "mass_normalised": 0.0, "repo": 1.0, "paper_logspace": 2.0, "none": 14.0}
    assert targets(batch, partition, 0.5).item() == pytest.approx(expected[partition])


@every_partition
def test_no_gradient_goes_into_the_value(partition: str) -> None:
    batch = ragged()
    leaves = {name: getattr(batch, name).clone().requires_grad_() for name in ("ref_logp_NT", "rewards_N")}
    loss = rpo.loss(replace(batch, **leaves), settings(partition, 0.7)).loss
    assert not any(grad(loss, leaf).any() for leaf in leaves.values())
    # of a squared residual nothing but the row's own log-ratio moves
    chosen = settings(partition, 0.7)
    log_ratio_N = ((batch.logp_NT - batch.ref_logp_NT) * batch.mask_NT).sum(1)
    share_N = torch.ones(6).double() if chosen.log_ratio == SUM else 1 / batch.mask_NT.sum(1)
    residual_N = log_ratio_N.detach() * share_N - targets(batch, partition, 0.7)  # type: ignore[arg-type]
    close(grad(loss, batch.logp_NT), (residual_N * share_N / 6)[:, None] * batch.mask_NT)


def test_groups_must_be_told_apart() -> None:
    with pytest.raises(ValueError, match="prompt_index_N"):
        rpo.loss(replace(ragged(), prompt_index_N=None), settings("mc", 1.0))


# ---------------------------------------------------------------------------- R3: biases


def test_R3_with_one_response_the_plain_mean_is_its_reward() -> None:
    ref, rewards_M = start(LARGE)
    error_B = logged.value_errors(LARGE, ref, rewards_M, torch.arange(7)[:, None], "mc", 0.7, False)
    close(error_B, rewards_M - 0.7 * (LARGE.sequence_logp(ref) + rewards_M / 0.7).logsumexp(0))


def test_R3_the_mean_over_draws_is_the_exact_bias() -> None:
    ref, rewards_M = start(LARGE)
    probability_M = LARGE.probability(ref)
    every_BK = torch.cartesian_prod(torch.arange(7), torch.arange(7))
    drawn_BK = torch.multinomial(probability_M, 40000, True, generator=torch.Generator().manual_seed(0)).view(-1, 2)
    for partition, distinct in (("mc", False), ("paper_logspace", False), ("paper_logspace", True)):
        exact_B, error_B = (logged.value_errors(LARGE, ref, rewards_M, index_BK, partition, 0.7, distinct)
                            for index_BK in (every_BK, drawn_BK))
        bias = float(probability_M[every_BK].prod(1) @ exact_B)
        assert abs(float(error_B.mean()) - bias) < 5 * float(error_B.std()) / 20000**0.5
        assert bias < -0.01


def test_R3_the_published_sum_grows_with_the_log_of_n_and_the_mean_does_not() -> None:
    ref, rewards_M = start(LARGE)
    index_N = torch.multinomial(LARGE.probability(ref), 2**16, True, generator=torch.Generator().manual_seed(0))
    bias = {(name, n): float(logged.value_errors(LARGE, ref, rewards_M, index_N.view(-1, n), name, 0.7, False).mean())
            for name in ("mc", "paper_logspace") for n in (64, 1024)}
    growth = bias["paper_logspace", 1024] - bias["paper_logspace", 64]
    assert growth == pytest.approx(0.7 * torch.tensor(16.0).log().item(), abs=0.02)
    assert abs(bias["mc", 1024]) < 0.01
    distinct_B = logged.value_errors(LARGE, ref, rewards_M, torch.arange(7).repeat(3, 2), "paper_logspace", 0.7, True)
    close(distinct_B, torch.zeros(3).double())


# ---------------------------------------------------------------------------- R4: what becomes of long responses


@pytest.mark.parametrize(("partition", "tau", "expected"), [
    ("repo", 0.1, [1.4, -6.6, -14.6, -22.6]), ("repo", 1.0, [0.92, 0.12, -0.68, -1.48]),
    ("repo", 5.0, [0.38, 0.22, 0.06, -0.10]), ("none", 0.1, [12, 4, -4, -12]),
    ("paper_logspace", 1.0, [210.0, 209.2, 208.4, 207.6])])
def test_R4_targets_of_the_specification(partition: Any, tau: float, expected: list[float]) -> None:
    found_N = targets(logged.long_responses(*LONG, torch.float64), partition, tau)
    assert found_N.tolist() == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize(("tau", "offset"), [(0.1, 0.014), (1.0, 0.09), (5.0, 0.16)])
def test_R4_the_public_code_adds_an_offset_to_every_target(tau: float, offset: float) -> None:
    batch = logged.long_responses(*LONG, torch.float64)
    difference_N = targets(batch, "repo", tau) - targets(batch, "mc", tau)
    assert difference_N.tolist() == pytest.approx([offset] * 4, abs=0.005)


@every_partition
def test_R4_underflow_fp32_holds_responses_that_exp_does_not(partition: str) -> None:
    assert not torch.tensor(-240.0).exp()
    single, double = (logged.long_responses(*LONG, dtype) for dtype in (torch.float32, torch.float64))
    for tau in (0.01, 0.1, 1.0, 5.0):
        found, expected = (rpo.loss(batch, settings(partition, tau)) for batch in (single, double))
        assert found.loss.isfinite()
        assert found.loss.item() == pytest.approx(expected.loss.item(), rel=1e-4)
        assert found.metrics["target"] == pytest.approx(expected.metrics["target"], rel=1e-4, abs=1e-3)
        assert torch.isfinite(grad(found.loss, single.logp_NT)).all()


@pytest.mark.parametrize("partition", ["mc", "mass_normalised", "repo"])
def test_R4_equal_rewards_ask_equal_responses_of_any_length_for_the_same_mean(partition: Any) -> None:
    batch = rows([[-1.0] * 4] * 2, [[1, 1, 1, 1], [1, 1, 0, 0]], [0.5, 0.5], ref=[[-1.0] * 4] * 2, group_size=2)
    target_N = targets(batch, partition, 1.0)
    assert target_N[0] == target_N[1]
    long, short = (float(logged.long_responses((0.5,), (-1.0,), n, torch.float64).mask_NT.sum() * targets(
        logged.long_responses((0.5,), (-1.0,), n, torch.float64), "repo", 1.0)) for n in (150, 50))
    assert long - short == pytest.approx(100)
