"""Laws that every method with a critic obeys; the methods are found by what they need."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from critic import KL_LOSS, KL_REWARD, LEAVES, NO_KL, PADDED, changed, outcome, some_batch
from world import close, config, grad

from rlfamily import core
from rlfamily.algorithms import get, names, needs

CRITICS = [name for name in names() if "value" in get(name).NEEDS]
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in CRITICS} | {
    f"{name}, {text}": (name, changes)
    for name in CRITICS
    for text, changes in {
        "kl in reward": {"kl": KL_REWARD},
        "kl in loss": {"kl": KL_LOSS},
        "plain": {"whiten": False},
        "direct": {"policy_loss": "direct"},
        "printed": {"policy_loss": "printed"},
        "step": {"level": "step", "whiten": False},
        "step, direct": {"level": "step", "policy_loss": "direct"},
    }.items()
    if set(changes) <= set(get(name).Config.model_fields)
    and (text != "kl in reward" or get(name).SOURCE != "logged")  # a logged reward has no place for a KL
} | {"oreo, step": ("oreo", {"level": "step"})}
# those with a surrogate, whose loss is that of a policy and vf_coef times that of a critic
ACTORS = [variant for variant, (name, _) in VARIANTS.items() if "vf_coef" in get(name).Config.model_fields]
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def run(variant: str, batch: Any) -> Any:
    name, changes = VARIANTS[variant]
    return outcome(name, batch, config(name, **changes))


def test_the_critics_are_found() -> None:
    assert {"ppo", "dro_online", "oreo_online"} <= set(CRITICS)


@every_variant
@pytest.mark.parametrize("garbage", [0.0, -3.0, float("nan"), float("-inf")])
def test_X1_pads_are_inert(variant: str, garbage: float) -> None:
    batch = some_batch()
    loss, gradients, metrics = run(variant, batch)
    pads_NT = batch.mask_NT == 0
    names_ = tuple(name for name in PADDED if name != "mask_NT")
    dirty = changed(batch, names_, lambda x_NT: x_NT.masked_fill(pads_NT, garbage))
    other_loss, other_gradients, other_metrics = run(variant, dirty)
    close(other_loss, loss)
    for ours, theirs in zip(other_gradients, gradients, strict=True):
        assert not ours[pads_NT].any()
        close(ours, theirs)
    assert other_metrics == pytest.approx(metrics)


@every_variant
def test_X1_the_amount_of_padding_is_irrelevant(variant: str) -> None:
    batch = some_batch()
    loss, gradients, metrics = run(variant, batch)
    wide = changed(batch, PADDED, lambda x_NT: torch.nn.functional.pad(x_NT, (0, 5)))
    other_loss, other_gradients, other_metrics = run(variant, wide)
    close(other_loss, loss)
    for ours, theirs in zip(other_gradients, gradients, strict=True):
        close(ours[:, :4], theirs)
    assert other_metrics == pytest.approx(metrics)


@every_variant
def test_row_order_is_irrelevant(variant: str) -> None:
    batch, index_N = some_batch(), torch.tensor([3, 0, 5, 1, 4, 2])
    rows = (*PADDED, "rewards_N", "step_ends_NS", "row_weight_N")
    loss, gradients, _ = run(variant, batch)
    other_loss, other_gradients, _ = run(variant, changed(batch, rows, lambda x: x[index_N]))
    close(other_loss, loss)
    for ours, theirs in zip(other_gradients, gradients, strict=True):
        close(ours, theirs[index_N])


@every_variant
def test_a_weight_of_two_is_the_row_twice(variant: str) -> None:
    batch = some_batch()
    doubled = replace(batch, row_weight_N=torch.tensor([1.0, 2, 1, 1, 1, 1], dtype=torch.float64))
    rows = (*PADDED, "rewards_N", "step_ends_NS")
    repeated = changed(replace(batch, row_weight_N=None), rows, lambda x: x[[0, 1, 1, 2, 3, 4, 5]])
    found, expected = run(variant, doubled), run(variant, repeated)
    close(found[0], expected[0])
    for ours, theirs in zip(found[1], expected[1], strict=True):
        close(ours, torch.stack([theirs[0], theirs[1] + theirs[2], *theirs[3:]]))
    assert found[2] == pytest.approx(expected[2])


@every_variant
@pytest.mark.parametrize("shift", [0.0, 500.0, -240.0, -500.0])
def test_fp32_stays_finite_at_any_log_ratio(variant: str, shift: float) -> None:
    loss, gradients, metrics = run(variant, some_batch(dtype=torch.float32, shift=shift))
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert all(abs(value) < float("inf") for value in metrics.values())


@every_variant
@pytest.mark.parametrize("emptied", [[0, 1, 2, 3, 4, 5], [1, 2, 3]], ids=["all", "some"])
def test_emptied_rows_have_no_gradient_and_break_nothing(variant: str, emptied: list[int]) -> None:
    batch = some_batch()
    mask_NT = batch.mask_NT.index_fill(0, torch.tensor(emptied), 0)
    loss, gradients, metrics = run(variant, replace(batch, mask_NT=mask_NT))
    assert loss.isfinite()
    for gradient in gradients:
        assert gradient.isfinite().all() and not gradient[emptied].any()
    assert all(value == value for value in metrics.values())
    if len(emptied) == 6:
        assert loss == 0 and not any(gradient.any() for gradient in gradients)
    else:
        assert all(gradient.any() for gradient in gradients)


@every_variant
def test_a_batch_with_emptied_rows_is_the_batch_without_them(variant: str) -> None:
    batch, kept_N = some_batch(), torch.tensor([0, 4, 5])
    empty = replace(batch, mask_NT=batch.mask_NT.index_fill(0, torch.tensor([1, 2, 3]), 0))
    rows = (*PADDED, "rewards_N", "step_ends_NS", "row_weight_N")
    for changes in ({}, {"row_weight_N": torch.ones(6, dtype=torch.float64)}):
        found = run(variant, replace(empty, **changes))
        expected = run(variant, changed(replace(batch, **changes), rows, lambda x: x[kept_N]))
        close(found[0], expected[0])
        for ours, theirs in zip(found[1], expected[1], strict=True):
            close(ours[kept_N], theirs)
        assert found[2] == pytest.approx(expected[2])


@every_variant
def test_gradients_reach_the_policy_and_the_critic_only(variant: str) -> None:
    batch = some_batch()
    name, changes = VARIANTS[variant]
    others = ("old_logp_NT", "ref_logp_NT", "rewards_N", "old_values_NT")
    leaves = {other: getattr(batch, other).clone().requires_grad_() for other in others}
    loss = get(name).loss(replace(batch, **leaves), config(name, **changes)).loss
    assert not any(grad(loss, leaf).any() for leaf in leaves.values())
    assert all(grad(loss, getattr(batch, leaf)).any() for leaf in LEAVES)


@pytest.mark.parametrize("variant", ACTORS)
def test_the_policys_gradient_does_not_depend_on_vf_coef_nor_the_critics_on_the_policy_loss(
    variant: str,
) -> None:
    name, changes = VARIANTS[variant]
    gradients = [
        outcome(name, some_batch(), config(name, **changes, vf_coef=coef))[1] for coef in (0.0, 1.0, 3.0)
    ]
    close(gradients[0][0], gradients[2][0])
    assert not gradients[0][1].any()
    close(gradients[2][1], 3 * gradients[1][1])


@pytest.mark.parametrize("name", sorted({VARIANTS[variant][0] for variant in ACTORS}))
def test_a_kl_in_the_loss_is_added_to_it_as_a_mean_over_tokens(name: str) -> None:
    batch = some_batch()
    plain, pulled = (get(name).loss(batch, config(name, kl=kl)).loss for kl in (NO_KL, KL_LOSS))
    log_ratio_NT = batch.logp_NT - core.require(batch.ref_logp_NT, "ref_logp_NT")
    weight_NT = batch.mask_NT * core.require(batch.row_weight_N, "row_weight_N")[:, None]
    k3_NT = (-log_ratio_NT).exp() - 1 + log_ratio_NT
    expected = 0.3 * (k3_NT * weight_NT).sum() / weight_NT.sum()
    close((pulled - plain).detach(), expected.detach())
    close(grad(pulled, batch.logp_NT) - grad(plain, batch.logp_NT), grad(expected, batch.logp_NT))


@every_variant
def test_without_old_values_the_present_ones_stand(variant: str) -> None:
    batch = some_batch()
    same = replace(batch, old_values_NT=batch.values_NT.detach())
    found, expected = run(variant, replace(batch, old_values_NT=None)), run(variant, same)
    close(found[0], expected[0])
    for ours, theirs in zip(found[1], expected[1], strict=True):
        close(ours, theirs)


@every_variant
def test_metrics_have_the_recorded_names(variant: str) -> None:
    own = {"pg_loss", "value_loss", "value_mean"} | ({"clip_fraction"} if variant in ACTORS else set())
    metrics = run(variant, some_batch())[2]
    assert set(metrics) == own | {"kl_old", "kl_ref_k1", "kl_ref_k3"}
    assert all(type(value) is float for value in metrics.values())


@pytest.mark.parametrize("name", [name for name in CRITICS if name in ACTORS])
@pytest.mark.parametrize("coef", [0.0, 0.1])
@pytest.mark.parametrize("place", ["loss", "reward"])
def test_only_the_forwards_in_use_are_asked_for(name: str, coef: float, place: str) -> None:
    settings = config(name, kl={"coef": coef, "form": "k1", "place": place})
    wanted = needs(get(name), settings)
    assert wanted == {"old", "value"} | ({"ref"} if coef else set())
    batch = some_batch()
    bare = replace(batch, step_ends_NS=None, ref_logp_NT=batch.ref_logp_NT if coef else None)
    assert get(name).loss(bare, settings).loss.isfinite()
    with pytest.raises(ValueError, match="values_NT"):
        get(name).loss(replace(bare, values_NT=None), settings)
    with pytest.raises(ValueError, match="old_logp_NT"):
        get(name).loss(replace(bare, old_logp_NT=None), settings)


@every_variant
def test_mismatched_shapes_are_refused(variant: str) -> None:
    batch = some_batch()
    with pytest.raises(ValueError, match="values_NT"):
        run(variant, replace(batch, values_NT=batch.values_NT[:, :2]))
