"""Where each target of a value function comes to rest, against sums over all responses of a small world."""

from __future__ import annotations

from dataclasses import replace

import enumerated
import pytest
import torch
from enumerated import config, gradient, random_table, resting, states
from pydantic import ValidationError

from rlfamily import core, values
from rlfamily.algorithms import LossOutput
from rlfamily.values import td

EOS = pytest.mark.parametrize("eos", [True, False])
REDUCTIONS = pytest.mark.parametrize("reduction", ["token_mean", "per_sequence_mean"])
PLAIN = ("mc", "td", "gae")


def close(found, expected, tolerance=1e-10):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def rests_at(world, table_X, settings, **fields):
    """No slope there, and one everywhere else."""
    assert gradient(world, table_X, settings, **fields).abs().max() < 1e-12
    assert gradient(world, table_X + 0.1, settings, **fields).abs().min() > 1e-6


# ---------------------------------------------------------------------------- I4, I5, I8


@EOS
@pytest.mark.parametrize("kind", PLAIN)
def test_I4_regressions_rest_at_the_value_of_the_policy(kind, eos):
    world = states(eos=eos)
    value_X, settings = world.expected(world.rewards_M), config(kind)
    assert gradient(world, value_X, settings).abs().max() < 1e-12
    assert gradient(world, random_table(world), settings).abs().max() > 1e-2
    close(resting(world, settings), value_X)


@EOS
@REDUCTIONS
def test_I4_mc_and_its_reductions(eos, reduction):
    """A length's share of the mean depends on the reduction; the value at a state whose responses differ in length too."""
    world, settings = states(eos=eos), config("mc", reduction=reduction)
    size_M = world.mask_MS.sum(1) if reduction == "per_sequence_mean" else torch.ones(len(world.rewards_M), dtype=torch.float64)
    weighted = world.expected(world.rewards_M / size_M) / world.expected(1 / size_M)
    rests_at(world, weighted, settings)
    assert torch.allclose(weighted, world.expected(world.rewards_M)) == (reduction == "token_mean" or not eos)


@pytest.mark.parametrize(("kind", "changes"), [("bce", {}), ("fudge", {"threshold": 0.0}), ("fudge", {"threshold": None})])
def test_I4_cross_entropies_rest_at_the_logit_of_the_chance(kind, changes):
    world = states()
    right_M = (world.rewards_M > 0).double()
    if changes.get("threshold", None) is None:
        world = replace(world, rewards_M=right_M)
    settings = config(kind, **changes)
    chance_X = world.expected(right_M)
    mixed_X = (chance_X > 0) & (chance_X < 1)  # elsewhere the logit has no end
    assert mixed_X.any() and not mixed_X.all()
    logit_X = torch.where(mixed_X, chance_X.logit(), 40 * (2 * chance_X - 1))
    assert gradient(world, logit_X, settings).abs().max() < 1e-12
    assert gradient(world, logit_X + 0.1, settings)[mixed_X].abs().min() > 1e-6


def test_I4_a_probability_is_an_outcome_too():
    world = states()
    world = replace(world, rewards_M=world.rewards_M.sigmoid())
    rests_at(world, world.expected(world.rewards_M).logit(), config("bce"))


@pytest.mark.parametrize("gamma", [0.95, 0.5])
def test_I4_discounts_count_the_tokens_to_the_end(gamma):
    world = states()
    left_MS = world.mask_MS.sum(1, keepdim=True) - 1 - torch.arange(world.mask_MS.shape[1])
    discounted_MS = gamma**left_MS * world.rewards_M[:, None]
    weight_MS = world.probability_M[:, None] * world.mask_MS
    total_X, mass_X = (torch.zeros(world.count, dtype=torch.float64).index_put_((world.state_MS,), part, accumulate=True)
                       for part in (weight_MS * discounted_MS, weight_MS))
    value_X = total_X / mass_X
    assert gradient(world, value_X, config("td", gamma=gamma)).abs().max() < 1e-12
    for lam in (0.0, 0.7, 1.0):
        settings = config("gae", gamma=gamma, lam=lam)
        assert gradient(world, value_X, settings, old_values_NS=world.rows(value_X)).abs().max() < 1e-12


@pytest.mark.parametrize("kind", [*PLAIN, "bce", "fudge", "compressed"])
def test_I5_the_complete_response_is_trained(kind):
    world = states()
    world = replace(world, rewards_M=world.rewards_M.sigmoid())
    slope_X = gradient(world, random_table(world), config(kind, **({"threshold": 0.5} if kind == "fudge" else {})),
                       teacher_NS=world.rows(random_table(world, 2)))
    assert (slope_X[world.world.num_states:] != 0).all()


@REDUCTIONS
def test_I8_the_compressed_one_rests_at_the_sum(reduction):
    """Whatever responses it is fitted to, and whatever their rewards."""
    world = states()
    first_X, second_X = random_table(world, 2), random_table(world, 3)
    sum_X = first_X / 1.0 + second_X / 2.5
    settings = config("compressed", reduction=reduction)
    rests_at(world, sum_X, settings, teacher_NS=world.rows(sum_X))
    other = replace(world, probability_M=torch.rand(len(world.probability_M), dtype=torch.float64) + 0.1,
                    rewards_M=torch.full_like(world.rewards_M, torch.nan))
    rests_at(other, sum_X, settings, teacher_NS=world.rows(sum_X))


# ---------------------------------------------------------------------------- mutants


def full_gradient(batch, settings):
    """Eq. 50 as it reads: the next value is differentiated as well."""
    values_NS = core.masked(batch.values_NS, batch.mask_NS)
    error_NS = (values_NS - core.following(settings.gamma * values_NS, batch.mask_NS, batch.outcomes_N)).square()
    return LossOutput(core.token_mean(error_NS, batch.mask_NS, batch.row_weight_N))


def test_I4_td_full_with_gradient_through_both_terms_the_minimiser_is_another(monkeypatch):
    monkeypatch.setattr(td, "loss", full_gradient)
    world = states()
    assert gradient(world, world.expected(world.rewards_M), config("td")).abs().max() > 1e-2
    with pytest.raises(AssertionError):
        test_I4_regressions_rest_at_the_value_of_the_policy("td", True)


def test_I4_td_const_without_a_reward_at_the_end_constants_have_no_error(monkeypatch):
    right = core.following

    def endless(values_NS, mask_NS, last_N):
        own_N = (core.masked(values_NS, mask_NS) * (mask_NS.cumsum(1) == mask_NS.sum(1, keepdim=True)) * mask_NS).sum(1)
        return right(values_NS, mask_NS, own_N)

    world = states()
    table_X = torch.full((world.count,), 3.25, dtype=torch.float64)
    assert td.loss(world.batch(table_X), config("td")).loss > 1
    monkeypatch.setattr(core, "following", endless)
    assert td.loss(world.batch(table_X), config("td")).loss == 0
    with pytest.raises((AssertionError, torch.linalg.LinAlgError)):
        test_I4_regressions_rest_at_the_value_of_the_policy("td", True)


def test_I5_without_the_complete_response_it_keeps_any_value():
    """Eq. 7 as printed: what Eq. 8 ranks finished candidates by would stay as it was."""
    world = states()
    ends_MS = world.mask_MS.cumsum(1) == world.mask_MS.sum(1, keepdim=True)
    printed = replace(world, mask_MS=world.mask_MS * ~ends_MS)
    slope_X = gradient(printed, random_table(world), config("mc"))
    assert not slope_X[world.world.num_states:].any() and slope_X[:world.world.num_states].all()


# ---------------------------------------------------------------------------- laws


@REDUCTIONS
def test_gae_with_gamma_and_lambda_1_is_mc(reduction):
    world = states()
    table_X, old_NS = random_table(world), world.rows(random_table(world, 5))
    expected = gradient(world, table_X, config("mc", reduction=reduction))
    for fields in ({}, {"old_values_NS": old_NS}):
        close(gradient(world, table_X, config("gae", reduction=reduction), **fields), expected)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_gae_with_lambda_0_and_the_present_values_is_td(gamma):
    world, table_X = states(), random_table(states())
    close(gradient(world, table_X, config("gae", gamma=gamma, lam=0.0)), gradient(world, table_X, config("td", gamma=gamma)))


@pytest.mark.parametrize("garbage", [0.0, float("nan"), float("-inf")])
@pytest.mark.parametrize("kind", values.names())
def test_X1_pads_are_inert_and_their_number_too(kind, garbage):
    world, settings = states(), config(kind)
    world = replace(world, rewards_M=world.rewards_M.sigmoid())
    old_MS, teacher_MS = world.rows(random_table(world, 2)), world.rows(random_table(world, 3))
    right = world.batch(random_table(world).requires_grad_(), old_values_NS=old_MS, teacher_NS=teacher_MS)
    expected = values.get(kind).loss(right, settings)
    wide = {name: torch.nn.functional.pad(torch.where(right.mask_NS > 0, getattr(right, name).detach(), garbage), (0, 2), value=garbage)
            for name in ("values_NS", "old_values_NS", "teacher_NS")}
    leaf_NS = wide.pop("values_NS").requires_grad_()
    found = values.get(kind).loss(replace(right, values_NS=leaf_NS, mask_NS=torch.nn.functional.pad(right.mask_NS, (0, 2)), **wide), settings)
    close(found.loss, expected.loss)
    assert found.metrics == pytest.approx(expected.metrics)
    slope_NS = torch.autograd.grad(found.loss, leaf_NS)[0]
    assert slope_NS.isfinite().all() and not slope_NS[:, -2:].any()


@REDUCTIONS
@pytest.mark.parametrize("kind", values.names())
def test_a_weight_of_two_is_the_row_twice(kind, reduction):
    world, settings = states(), config(kind, reduction=reduction)
    twice = torch.tensor([0, 0, *range(1, len(world.rewards_M))])
    batch = world.batch(random_table(world), teacher_NS=world.rows(random_table(world, 2)))
    batch = replace(batch, outcomes_N=batch.outcomes_N.sigmoid())
    weight_N = torch.ones_like(world.rewards_M)
    weight_N[0] = 2
    repeated = replace(batch, row_weight_N=None, **{name: getattr(batch, name)[twice] for name in ("values_NS", "mask_NS", "outcomes_N", "teacher_NS")})
    found, expected = (values.get(kind).loss(one, settings) for one in (replace(batch, row_weight_N=weight_N), repeated))
    close(found.loss, expected.loss)
    assert found.metrics == pytest.approx(expected.metrics)


def test_metrics_are_the_values_at_both_ends():
    world = states()
    table_X = random_table(world)
    found = values.get("mc").loss(world.batch(table_X), config("mc")).metrics
    ends = (world.probability_M * table_X[world.world.num_states:]).sum() / world.probability_M.sum()
    assert found == pytest.approx({"value_prompt": float(table_X[0]), "value_complete": float(ends)})


@pytest.mark.parametrize(("kind", "outcomes", "changes", "text"), [
    ("mc", [2.0, 2.0], {}, "all 2 rewards are 2"), ("td", [2.0, float("nan")], {}, "1 of 2 rewards are no finite numbers"), ("mc", [0.0, 2.0], {}, ""), ("compressed", [1.0, 1.0], {}, ""),
    ("bce", [0.0, 2.0], {}, "go from 0 to 2"), ("bce", [0.0, 0.5], {}, ""),
    ("fudge", [0.0, 0.5], {"threshold": None}, "set loss.threshold"), ("fudge", [0.0, 1.0], {"threshold": None}, ""),
    ("fudge", [1.0, 2.0], {"threshold": 0.5}, "all are above loss.threshold=0.5"),
    ("fudge", [1.0, 2.0], {"threshold": 2.0}, "none is above loss.threshold=2.0"), ("fudge", [1.0, 2.0], {"threshold": 1.0}, ""),
])
def test_outcomes_that_teach_nothing_are_told(kind, outcomes, changes, text):
    found = values.problem(torch.tensor(outcomes), config(kind, **changes))
    assert text in found and bool(text) == bool(found) and "\n" not in found


def test_every_target_is_here():
    assert values.names() == ["bce", "compressed", "fudge", "gae", "mc", "td"]
    assert set(enumerated.SETTINGS) < set(values.names())


@pytest.mark.parametrize("kind", values.names())
def test_mismatched_shapes_are_refused(kind):
    world = states()
    batch = world.batch(random_table(world), teacher_NS=world.rows(random_table(world, 2)))
    for changes in ({"values_NS": batch.values_NS[:, :2]}, {"outcomes_N": batch.outcomes_N[:2]}, {"mask_NS": batch.mask_NS[:2]}):
        with pytest.raises(ValueError, match="shape"):
            values.get(kind).loss(replace(batch, **changes), config(kind))


def test_without_teachers_there_is_nothing_to_imitate():
    world = states()
    with pytest.raises(ValueError, match="teacher_NS is None"):
        values.get("compressed").loss(world.batch(random_table(world)), config("compressed"))


@pytest.mark.parametrize(("kind", "changes"), [
    ("td", {"gamma": 0.0}), ("td", {"gamma": 1.1}), ("gae", {"gamma": 0.0}), ("gae", {"lam": -0.1}), ("gae", {"lam": 1.1}),
    ("mc", {"reduction": "sum"}), ("mc", {"gamma": 1.0})])
def test_impossible_settings_are_refused(kind, changes):
    with pytest.raises(ValidationError):
        config(kind, **changes)
