"""Laws every loss obeys: padding, EOS, row order, reward shift, weights, numerics, purity."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from world import build, close, config, grad, loss_grad, policy_gradient, rollouts

from rlfamily import core
from rlfamily.algorithms import LossBatch, get, names

KL_LOSS = {"coef": 0.3, "form": "k3", "place": "loss"}
KL_REWARD = {"coef": 0.3, "form": "k2", "place": "reward"}
NO_KL = {"coef": 0.0, "form": "k3", "place": "loss"}
# every method as shipped, and settings that use what the shipped ones leave out
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in names()} | {
    "rloo, sequence ratio": ("rloo", {"ratio": "sequence"}),
    "rloo, kl in loss": ("rloo", {"kl": KL_LOSS}),
    "rloo, kl in reward": ("rloo", {"kl": KL_REWARD}),
    "topr, report": ("topr", {"weights": "report", "baseline": "none"}),
    "topr, tapered token": ("topr", {"weights": "tapered", "ratio": "token"}),
    "topr, length-normalised": ("topr", {"ratio": "length_norm", "baseline": "running_mean"}),
    "gnivo, without kl": ("gnivo", {"kl": NO_KL}),
    "gnivo, one step": ("gnivo", {"variant": "one_step", "kl": NO_KL}),
    "gnivo, steps": ("gnivo", {"variant": "step_level", "kl": NO_KL}),
    "gnivo, max length": ("gnivo", {"t_mode": "max_new_tokens", "max_length": 9, "kl": NO_KL}),
    "gnivo, unnormalised": ("gnivo", {"weights": "unnormalised", "kl": NO_KL}),
    "gnivo, shifted": ("gnivo", {"weights": "unnormalised", "shift": "running_mean", "kl": NO_KL}),
    "gnivo, batch norm": ("gnivo", {"weights": "batch_norm", "kl": KL_REWARD}),
    "gnivo, two draws": ("gnivo", {"sampled_t": 2}),
    "grpo, per response": ("grpo", {"reduction": "seq_mean", "scale_rewards": "none"}),
    "grpo, fixed length": ("grpo", {"reduction": "fixed_len", "kl": KL_REWARD}),
    "sft winning, no ties": ("sft_winning", {"skip_ties": True, "kl": KL_REWARD}),
    "online dpo, old": ("online_dpo", {"dpo_ref": "old", "skip_ties": True, "kl": NO_KL}),
    "rpo, mass": ("rpo", {"partition": "mass_normalised"}),
    "rpo, mc": ("rpo", {"partition": "mc", "log_ratio": "sum", "tau": 0.3}),
    "rpo, log space": ("rpo", {"partition": "paper_logspace", "log_ratio": "sum", "tau": 5.0}),
    "rpo, none": ("rpo", {"partition": "none"}),
    "dro, joint": ("dro", {"variant": "joint", "tau": 0.3}),
    "dro, separate": ("dro", {"variant": "separate", "tau": 0.3}),
    "kto, canonical": ("kto", {"variant": "canonical", "beta": 0.1, "bad_weight": 1.5}),
    "oreo, without kl": ("oreo", {"kl": NO_KL}),
    "oreo, steps": ("oreo", {"level": "step"}),
}
BASELINES = ["rloo", "rloo, sequence ratio", "rloo, kl in reward", "topr", "topr, tapered token"]
SHIFT_FREE = [
    *BASELINES,
    *(v for v, (name, _) in VARIANTS.items() if name in {"grpo", "sft_winning", "online_dpo"}),
    *(v for v, (name, own) in VARIANTS.items() if name == "gnivo" and own.get("weights") != "unnormalised"),
    *(v for v, (name, own) in VARIANTS.items() if name == "rpo" and own.get("partition") != "none"),
]
LOGGED = [v for v, (name, _) in VARIANTS.items() if get(name).SOURCE == "logged"]
OF_TOKENS = ["sft", "sft_logged", "oreo", "oreo, without kl"]  # a mean over tokens weighs a part by its tokens
# the loss of a batch is the mean of those of its groups
ADDITIVE = [
    *(v for v, (name, _) in VARIANTS.items() if name in {"dpo", "rloo", "topr", "rpo", "dro"}),
    *OF_TOKENS,
    *(v for v, (name, own) in VARIANTS.items() if own.get("kl") == NO_KL and name != "oreo"),
    "grpo, per response",
    "grpo, fixed length",
]
WORLD = build(vocab=3, length=3, eos=True)
TOKEN_FIELDS = ("logp_NT", "old_logp_NT", "ref_logp_NT", "values_NT", "old_values_NT")
OTHER_FIELDS = ("mismatched_logp_NT", "mismatched_ref_logp_NT", "mismatched_mask_NT")
BATCH_FIELDS = (*TOKEN_FIELDS, *OTHER_FIELDS, "mask_NT", "rewards_N", "row_weight_N", "step_ends_NS", "prompt_values_N")

every_variant = pytest.mark.parametrize("variant", VARIANTS)


def some_batch(rows: int = 6, dtype: torch.dtype = torch.float64, shift: float = 0.0) -> LossBatch:
    """Three groups of two with lengths 1..4, log-probs moved by `shift` nats from the old ones on
    the first token.
    """
    generator = torch.Generator().manual_seed(0)
    old_NT, ref_NT, move_NT, values_NT, old_values_NT = (
        -torch.rand(rows, 4, generator=generator, dtype=dtype) for _ in range(5)
    )
    mask_NT = (torch.arange(4) < torch.tensor([4, 2, 1, 3, 2, 4])[:rows, None]).to(dtype)
    logp_NT = old_NT + 0.3 * move_NT
    logp_NT[:, 0] += shift
    other_N = torch.arange(rows).roll(-2)  # the responses to the next prompt
    return LossBatch(
        logp_NT.requires_grad_(),
        mask_NT,
        torch.tensor([2.0, -2.0, 0.0, -2.0, 2.0, 1.0], dtype=dtype)[:rows],
        2,
        old_NT,
        ref_NT,
        values_NT.requires_grad_(),
        old_values_NT,
        torch.tensor([[1, 3, 4], [2, 2, 2], [1, 1, 1], [1, 3, 3], [1, 2, 2], [2, 4, 4]])[:rows],
        row_weight_N=torch.tensor([1.0, 1.0, 2.0, 2.0, 0.5, 0.5], dtype=dtype)[:rows],
        progress=0.5,
        running_reward=0.25,
        mismatched_logp_NT=(ref_NT[other_N] - move_NT).requires_grad_(),
        mismatched_mask_NT=mask_NT[other_N],
        mismatched_ref_logp_NT=ref_NT[other_N],
        prompt_values_N=values_NT[:, 0].detach().clone().requires_grad_(),
    )


def select(batch: LossBatch, index_N: Tensor) -> LossBatch:
    return replace(batch, **{name: getattr(batch, name)[index_N] for name in BATCH_FIELDS})


def value_and_grad(variant: str, batch: LossBatch) -> tuple[Tensor, Tensor, dict[str, float]]:
    name, changes = VARIANTS[variant]
    chance = torch.Generator().manual_seed(0)
    out = get(name).loss(replace(batch, generator=chance), config(name, **changes))
    return out.loss.detach(), grad(out.loss, batch.logp_NT), out.metrics


@pytest.mark.parametrize("name", names())
def test_X0_a_tensor_of_other_rows_is_refused(name: str) -> None:
    batch, chance = some_batch(), torch.Generator()
    for field in BATCH_FIELDS:
        wrong = replace(batch, generator=chance, **{field: getattr(batch, field)[:1]})
        with pytest.raises(ValueError, match="shape"):
            get(name).loss(wrong, config(name))


@every_variant
@pytest.mark.parametrize("garbage", [0.0, -3.0, float("nan"), float("-inf")])
def test_X1_pads_are_inert(variant: str, garbage: float) -> None:
    batch = some_batch()
    loss, gradient, metrics = value_and_grad(variant, batch)
    pads_NT = batch.mask_NT == 0
    dirty = {
        name: getattr(batch, name).detach().masked_fill(pads_NT, garbage) for name in TOKEN_FIELDS
    }
    dirty["logp_NT"].requires_grad_()
    elsewhere_NT = core.require(batch.mismatched_mask_NT, "mismatched_mask_NT") == 0
    dirty |= {name: getattr(batch, name).detach().masked_fill(elsewhere_NT, garbage) for name in OTHER_FIELDS[:2]}
    other_loss, other_gradient, other_metrics = value_and_grad(variant, replace(batch, **dirty))
    assert not other_gradient[pads_NT].any()
    close(other_loss, loss)
    close(other_gradient, gradient)
    assert other_metrics == pytest.approx(metrics)


@every_variant
def test_X1_the_amount_of_padding_is_irrelevant(variant: str) -> None:
    batch = some_batch()
    loss, gradient, metrics = value_and_grad(variant, batch)
    padded: dict[str, Any] = {
        name: torch.nn.functional.pad(getattr(batch, name).detach(), (0, 5))
        for name in BATCH_FIELDS
        if name.endswith("NT")
    }
    padded["logp_NT"].requires_grad_()
    other_loss, other_gradient, other_metrics = value_and_grad(variant, replace(batch, **padded))
    close(other_loss, loss)
    close(other_gradient[:, :4], gradient)
    assert other_metrics == pytest.approx(metrics)


@pytest.mark.parametrize("name", ["rloo", "topr"])
def test_X3_dropping_eos_changes_the_objective(name: str) -> None:
    logits, rewards_M = WORLD.logits(0), WORLD.rewards(0)
    batch = rollouts(WORLD, logits, rewards_M, 2)
    exact = policy_gradient(WORLD, logits, rewards_M)
    close(-loss_grad(name, batch, config(name), logits), exact)
    last_N1 = batch.mask_NT.sum(1, keepdim=True) - 1
    without_eos = batch.mask_NT * (torch.arange(3) != last_N1)
    wrong = -loss_grad(name, replace(batch, mask_NT=without_eos), config(name), logits)
    assert (wrong - exact).abs().max() > 0.01


BETWEEN, WITHIN = [2, 3, 0, 1, 4, 5], [1, 0, 2, 3, 5, 4]
# in a preference pair the order is the label; chance falls on one group after the other
ORDERS = [(v, BETWEEN) for v in VARIANTS if v != "gnivo, two draws"] + [
    (v, WITHIN) for v in VARIANTS if v != "dpo"
]


@pytest.mark.parametrize(("variant", "order"), ORDERS)
def test_row_order_is_irrelevant(variant: str, order: list[int]) -> None:
    batch, index_N = some_batch(), torch.tensor(order)
    loss, gradient, _ = value_and_grad(variant, batch)
    moved = select(batch, index_N)
    other_loss, other_gradient, _ = value_and_grad(variant, moved)
    close(other_loss, loss)
    close(other_gradient, gradient[index_N])


@pytest.mark.parametrize("variant", ADDITIVE)
def test_micro_batches_of_whole_groups_add_up(variant: str) -> None:
    batch = some_batch()
    loss, gradient, _ = value_and_grad(variant, batch)
    total, parts = torch.zeros((), dtype=torch.float64), []
    weight_N = core.require(batch.row_weight_N, "row_weight_N")
    if variant in OF_TOKENS:
        weight_N = weight_N * batch.mask_NT.sum(1)
    for index_N in torch.arange(6).view(3, 2):
        share = weight_N[index_N].sum() / weight_N.sum()
        part_loss, part_gradient, _ = value_and_grad(variant, select(batch, index_N))
        total += share * part_loss
        parts.append(share * part_gradient)
    close(total, loss)
    close(torch.cat(parts), gradient)


# a group's twin is another group, and has chances of its own
@pytest.mark.parametrize("variant", [v for v in VARIANTS if v not in {"gnivo, batch norm", "gnivo, two draws"}])
def test_a_weight_of_two_is_the_group_twice(variant: str) -> None:
    batch = some_batch()
    doubled = replace(batch, row_weight_N=torch.tensor([1.0, 1, 2, 2, 1, 1], dtype=torch.float64))
    repeated = replace(select(batch, torch.tensor([0, 1, 2, 3, 2, 3, 4, 5])), row_weight_N=None)
    found, expected = value_and_grad(variant, doubled), value_and_grad(variant, repeated)
    close(found[0], expected[0])
    close(
        found[1], torch.cat([expected[1][:2], expected[1][2:4] + expected[1][4:6], expected[1][6:]])
    )
    assert found[2] == pytest.approx(expected[2])


@pytest.mark.parametrize("variant", SHIFT_FREE)
def test_a_constant_added_to_all_rewards_changes_nothing(variant: str) -> None:
    batch = some_batch()
    close(
        value_and_grad(variant, replace(batch, rewards_N=batch.rewards_N + 8))[1],
        value_and_grad(variant, batch)[1],
    )


@pytest.mark.parametrize("variant", ["sft", "dpo", "sft_logged"])
def test_supervised_losses_ignore_rewards(variant: str) -> None:
    batch = some_batch()
    close(
        value_and_grad(variant, replace(batch, rewards_N=-batch.rewards_N))[1],
        value_and_grad(variant, batch)[1],
    )


@every_variant
@pytest.mark.parametrize("shift", [0.0, 500.0, -240.0, -500.0])
def test_fp32_stays_finite_at_any_log_ratio(variant: str, shift: float) -> None:
    loss, gradient, metrics = value_and_grad(variant, some_batch(dtype=torch.float32, shift=shift))
    assert loss.isfinite() and gradient.isfinite().all()
    assert all(abs(value) < float("inf") for value in metrics.values())


@every_variant
@pytest.mark.parametrize("emptied", [[0, 1, 2, 3, 4, 5], [1, 2, 3]], ids=["all", "some"])
def test_emptied_rows_have_no_gradient_and_break_nothing(variant: str, emptied: list[int]) -> None:
    batch = some_batch()
    mask_NT = batch.mask_NT.index_fill(0, torch.tensor(emptied), 0)
    loss, gradient, metrics = value_and_grad(variant, replace(batch, mask_NT=mask_NT))
    assert loss.isfinite() and gradient.isfinite().all()
    assert not gradient[emptied].any()
    assert all(value == value for value in metrics.values())
    if len(emptied) == 6:
        assert loss == 0 and not gradient.any()


# the other groups of a batch norm and the chances of draws fall on another number of groups all the same
@every_variant
@pytest.mark.parametrize("emptied", [[2, 3], [0, 1, 4, 5]], ids=["one", "two"])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_batch_with_emptied_groups_is_the_batch_without_them(
    variant: str, emptied: list[int], weighted: bool
) -> None:
    batch = some_batch() if weighted else replace(some_batch(), row_weight_N=torch.ones(6, dtype=torch.float64))
    rewards_N = batch.rewards_N.index_fill(0, torch.tensor(emptied), 50.0)  # largest of all, and a tie
    empty = replace(batch, rewards_N=rewards_N, mask_NT=batch.mask_NT.index_fill(0, torch.tensor(emptied), 0))
    kept_N = torch.tensor([n for n in range(6) if n not in emptied])
    found, expected = value_and_grad(variant, empty), value_and_grad(variant, select(batch, kept_N))
    close(found[0], expected[0])
    close(found[1][kept_N], expected[1])
    assert found[2] == pytest.approx(expected[2])
    if not weighted:
        found = value_and_grad(variant, replace(empty, row_weight_N=None))
        close(found[1][kept_N], expected[1])


# where rows are averaged and not tokens, every row that is left has a share of five, not of six
@pytest.mark.parametrize("variant", [*BASELINES, "rloo, kl in loss", "grpo, per response", "grpo, fixed length"])
def test_an_emptied_row_leaves_its_share_to_the_others(variant: str) -> None:
    batch = replace(some_batch(), row_weight_N=None)
    empty = replace(batch, mask_NT=batch.mask_NT.index_fill(0, torch.tensor([1]), 0))
    close(value_and_grad(variant, empty)[1][2:], value_and_grad(variant, batch)[1][2:] * 6 / 5)


@pytest.mark.parametrize("variant", ["dpo", "online_dpo", "online dpo, old"])
def test_a_pair_with_an_emptied_response_is_the_batch_without_the_pair(variant: str) -> None:
    batch = some_batch()
    empty = replace(batch, mask_NT=batch.mask_NT.index_fill(0, torch.tensor([3]), 0))
    kept_N = torch.tensor([0, 1, 4, 5])
    found, expected = value_and_grad(variant, empty), value_and_grad(variant, select(batch, kept_N))
    for name in {"margin", "accuracy", "log_ratio_gap", "tie_fraction", "pg_loss"} & set(expected[2]):
        assert found[2][name] == pytest.approx(expected[2][name])
    if variant != "online_dpo":  # its separate KL looks at the other response too
        close(found[0], expected[0])
        close(found[1][kept_N], expected[1])


@pytest.mark.parametrize("variant", BASELINES)
def test_an_emptied_row_still_counts_in_the_baseline(variant: str) -> None:
    batch = some_batch()
    batch = replace(batch, mask_NT=batch.mask_NT.index_fill(0, torch.tensor([1]), 0))
    raised = replace(
        batch, rewards_N=batch.rewards_N + torch.tensor([0.0, 1, 0, 0, 0, 0], dtype=torch.float64)
    )
    assert not torch.equal(
        value_and_grad(variant, batch)[1][0], value_and_grad(variant, raised)[1][0]
    )


@every_variant
def test_gradients_reach_only_the_policy(variant: str) -> None:
    batch = some_batch()
    leaves = {
        name: getattr(batch, name).clone().requires_grad_()
        for name in ("old_logp_NT", "ref_logp_NT", "rewards_N", "old_values_NT", *OTHER_FIELDS[:2])
    }
    name, changes = VARIANTS[variant]
    chance = torch.Generator().manual_seed(0)
    loss = get(name).loss(replace(batch, **leaves, generator=chance), config(name, **changes)).loss
    assert loss.shape == () and loss.requires_grad
    assert not any(grad(loss, leaf).any() for leaf in leaves.values())


@every_variant
def test_metrics_have_the_recorded_names(variant: str) -> None:
    _, _, metrics = value_and_grad(variant, some_batch())
    assert {"kl_old", "kl_ref_k1", "kl_ref_k3"} <= set(metrics)
    assert all(type(value) is float for value in metrics.values())
    own = {
        "rloo": {"pg_loss", "clip_fraction"},
        "topr": {"pg_loss", "weight_mean", "clip_fraction", "tau"},
        "dpo": {"margin", "accuracy"},
        "sft": set(),
        "grpo": {"pg_loss", "advantage_abs", "clip_fraction"},
        "gnivo": {"pg_loss", "log_ratio_abs", "t_draw_variance", "weight_shift", "weight_entropy",
                  "weight_max", "weight_scale_log_range"},
        "sft_winning": {"pg_loss", "tie_fraction", "reward_gain"},
        "online_dpo": {"pg_loss", "margin", "log_ratio_gap", "accuracy", "tie_fraction"},
        "rpo": {"target", "log_ratio"},
        "dro": {"squared_residual", "value_mean", "log_ratio"},
        "kto": {"reference_point", "good", "log_ratio"},
        "oreo": {"pg_loss", "value_loss", "value_mean"},
        "sft_logged": set(),
    }
    name = VARIANTS[variant][0]
    if name in own:
        assert set(metrics) - {"kl_old", "kl_ref_k1", "kl_ref_k3"} == own[name]


@every_variant
def test_mismatched_shapes_are_refused(variant: str) -> None:
    batch = some_batch()
    name, changes = VARIANTS[variant]
    with pytest.raises(ValueError, match="mask_NT"):
        get(name).loss(replace(batch, mask_NT=batch.mask_NT[:, :2]), config(name, **changes))
