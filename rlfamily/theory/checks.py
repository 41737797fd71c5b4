"""The checks of the theory stage: each yields rows of a table, a number a row.

A row has `value`, what the paper's statement says it should be (`expected`: 0 unless a check says otherwise, absent
where it says None, because there is no statement), the standard error `se` (0 for exact sums), and keys that tell it
from the other rows of its check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from rlfamily.algorithms import gnivo as method
from rlfamily.errors import UserError, nearest
from rlfamily.theory import gnivo, guided_checks, logged_checks, online_checks
from rlfamily.theory.tilting import divergence, prefix_probability, soft_values, tilted
from rlfamily.theory.world import Groups, World, drawn, grad, unordered_groups

Row = dict[str, Any]

ALPHAS = (0.2, 0.7)  # the paper's temperature, and one at which no response dominates
TEMPERATURE = 0.7  # GN-IVO App. D: at which responses are drawn
OBJECTIVES = (  # variant, weights, t_mode
    ("sequential", "unnormalised", "max_new_tokens"),
    ("sequential", "unnormalised", "group_max"),
    ("sequential", "normalised", "group_max"),
    ("one_step", "normalised", "group_max"),
)
DRAWS = 4000
LENGTH = 64  # tokens of the group whose draws are looked at: more than the 20 of Fig. 7


def run(checks: Iterable[str], seed: int, progress: Callable[[int, int, str], None]) -> Iterator[Row]:
    """Rows of the named checks, numbered within each. Raises UserError for a name there is none of."""
    wanted = list(checks)
    for name in wanted:
        if name not in CHECKS:
            raise UserError(f"theory: no check '{name}'{nearest(name, CHECKS)}")
    for done, name in enumerate(wanted):
        progress(done, len(wanted), name)
        for item, row in enumerate(CHECKS[name](seed)):
            full = {"check": name, "item": item, "se": 0.0, "expected": 0.0, **row}
            yield {field: value for field, value in full.items() if value is not None}
    progress(len(wanted), len(wanted), "")


def _ending(seed: int) -> tuple[World, torch.Tensor, torch.Tensor]:
    """15 responses of 1 to 3 tokens, of which one word is the end of sequence."""
    return drawn(seed, 3, 3, True)


def _binary(seed: int) -> tuple[World, torch.Tensor, torch.Tensor]:
    """8 responses of 3 tokens."""
    return drawn(seed, 2, 3, False)


def _least(seed: int) -> tuple[World, torch.Tensor, torch.Tensor]:
    """4 responses of 2 tokens: few enough for large groups."""
    return drawn(seed, 2, 2, False)


def theorem_3_1(seed: int) -> Iterator[Row]:
    """Largest |log pi*(y_<=t)/pi_old(y_<=t) - (V(y_<=t) - log Z)| over prefixes."""
    world, logits, rewards_M = _ending(seed)
    old_MT = prefix_probability(world, world.probability(logits))
    for alpha in ALPHAS:
        best_MT = prefix_probability(world, tilted(world, logits, rewards_M, alpha))
        values_MT = soft_values(world, logits, rewards_M, alpha)
        error_MT = (best_MT / old_MT).log() - (values_MT[:, 1:] - values_MT[:, :1])
        yield {"alpha": alpha, "value": float(error_MT.abs().max())}


def theorem_3_2(seed: int) -> Iterator[Row]:
    """Deviation of the values that minimise Eq. 7 from V, up to a constant for each t."""
    world, logits, rewards_M = _binary(seed)
    for alpha in ALPHAS:
        values_MT = soft_values(world, logits, rewards_M, alpha)[:, 1:]
        for weights in ("unnormalised", "normalised"):
            for k in (2, 3):
                config = gnivo.settings(weights=weights, alpha=alpha)
                found_MT = gnivo.learned_values(world, logits, rewards_M, k, config)
                yield {"weights": weights, "k": k, "alpha": alpha, "value": gnivo.deviation(found_MT, values_MT)}


def corollary_3_3(seed: int) -> Iterator[Row]:
    """KL from pi* of the policy that the learned values stand for: their constants do not matter."""
    world, logits, rewards_M = _binary(seed)
    for alpha in ALPHAS:
        for k in (2, 3):
            config = gnivo.settings(alpha=alpha)
            found_MT = gnivo.learned_values(world, logits, rewards_M, k, config)
            policy = gnivo.policy_of_values(world, logits, found_MT)
            value = divergence(world.probability(policy), tilted(world, logits, rewards_M, alpha))
            yield {"k": k, "alpha": alpha, "value": value}


def minimiser(seed: int) -> Iterator[Row]:
    """KL from pi* of the policy that minimises the loss, for every choice of weights and of T.

    With T the longest response of the group (group_max) the weight 1/T of a prefix depends on how its group goes on,
    so that un-normalised weights are exact only where T is one number for all groups.
    """
    world, logits, rewards_M = _ending(seed)
    for alpha in ALPHAS:
        best_M = tilted(world, logits, rewards_M, alpha)
        for k in (2, 3, 4):
            groups = unordered_groups(world.probability(logits), k)
            for variant, weights, t_mode in OBJECTIVES:
                config = gnivo.settings(variant=variant, weights=weights, alpha=alpha, t_mode=t_mode, max_length=3)
                found = gnivo.learned_policy(world, logits, rewards_M, groups, config)
                yield {"variant": variant, "weights": weights, "t_mode": t_mode, "k": k, "alpha": alpha,
                       "value": divergence(world.probability(found), best_M)}
    yield from _minimiser_in_batches(seed)


def _minimiser_in_batches(seed: int) -> Iterator[Row]:
    world, logits, rewards_M = _least(seed)
    for alpha in ALPHAS:
        config = gnivo.settings(weights="batch_norm", alpha=alpha)
        found = gnivo.learned_policy_in_batches(world, logits, rewards_M, 2, config)
        value = divergence(world.probability(found), tilted(world, logits, rewards_M, alpha))
        yield {"variant": "sequential", "weights": "batch_norm", "t_mode": "group_max", "k": 2, "alpha": alpha,
               "value": value}


def reference(seed: int) -> Iterator[Row]:
    """KL of the policy before training from pi*: what the divergences of `minimiser` are small against."""
    world, logits, rewards_M = _ending(seed)
    for alpha in ALPHAS:
        value = divergence(world.probability(logits), tilted(world, logits, rewards_M, alpha))
        yield {"alpha": alpha, "value": value, "expected": None}


def normalisation_bias(seed: int) -> Iterator[Row]:
    """Error of the learned difference of values between the two first tokens, against the size of the group."""
    world, logits, rewards_M = _least(seed)
    for alpha in ALPHAS:
        values_M = soft_values(world, logits, rewards_M, alpha)[:, 1]
        for weights, sizes in (("normalised", (2, 4, 8, 16, 32)), ("unnormalised", (2,))):
            for k in sizes:
                config = gnivo.settings(weights=weights, alpha=alpha)
                error_M = gnivo.learned_values(world, logits, rewards_M, k, config)[:, 0] - values_M
                yield {"weights": weights, "k": k, "alpha": alpha, "value": float((error_M[-1] - error_M[0]).abs())}


def repeated(seed: int) -> Iterator[Row]:
    """KL of the policy after i exact outer iterations from one tilt of the first policy at alpha/i."""
    world, logits, rewards_M = _binary(seed)
    for iterations, found in _outer(world, logits, rewards_M, 3):
        best_M = tilted(world, logits, rewards_M, ALPHAS[1] / iterations)
        yield {"iterations": iterations, "alpha": ALPHAS[1], "k": 2,
               "value": divergence(world.probability(found), best_M)}


def repeated_argmax(seed: int) -> Iterator[Row]:
    """Probability of the best response after i outer iterations: without a KL to the initial model it becomes 1."""
    world, logits, rewards_M = _binary(seed)
    for iterations, found in _outer(world, logits, rewards_M, 8):
        yield {"iterations": iterations, "alpha": ALPHAS[1], "k": 2, "expected": 1.0,
               "value": float(world.probability(found)[rewards_M.argmax()])}


def _outer(
    world: World, logits: torch.Tensor, rewards_M: torch.Tensor, iterations: int
) -> Iterator[tuple[int, torch.Tensor]]:
    config = gnivo.settings(variant="one_step", weights="normalised", alpha=ALPHAS[1])
    for done in range(1, iterations + 1):
        groups = unordered_groups(world.probability(logits), 2)
        logits = gnivo.learned_policy(world, logits, rewards_M, groups, config)
        yield done, logits


def gradient_at_old(seed: int) -> Iterator[Row]:
    """Largest |dL/dlog pi(y_ij) + (w_i - 1/K)(T - j)/T| at ratio 1; for one_step without the fading factor."""
    for variant in ("sequential", "one_step"):
        for k in (2, 4):
            batch = gnivo.random_group(LENGTH, k, 1, seed)
            logp_NT = batch.old_logp_NT
            assert logp_NT is not None
            at_old = type(batch)(logp_NT.clone().requires_grad_(), batch.mask_NT, batch.rewards_N, k, logp_NT)
            config = gnivo.settings(variant=variant, weights="normalised", alpha=ALPHAS[0])
            fade_T = (LENGTH - torch.arange(LENGTH)) / LENGTH if variant == "sequential" else torch.ones(LENGTH)
            advantage_N = (batch.rewards_N / ALPHAS[0]).softmax(0) - 1 / k
            error_NT = grad(method.loss(at_old, config).loss, at_old.logp_NT) + advantage_N[:, None] * fade_T
            yield {"variant": variant, "k": k, "alpha": ALPHAS[0], "value": float(error_NT.abs().max())}


def draw_variance(seed: int) -> Iterator[Row]:
    """Variance of the gradient due to the draw of t, relative to its square: closed form, against many draws."""
    for sampled_t in (1, 20, "all"):
        full_KT, drawn_DKT, closed = _draws(seed, sampled_t)
        square_D = (drawn_DKT - full_KT).square().sum((1, 2)) / full_KT.square().sum()
        yield {"sampled_t": str(sampled_t), "alpha": ALPHAS[0], "value": closed, "expected": float(square_D.mean()),
               "se": float(square_D.std() / DRAWS**0.5)}


def draw_bias(seed: int) -> Iterator[Row]:
    """Relative distance of the mean gradient over many draws of t from the gradient over all t."""
    for sampled_t in (1, 20, "all"):
        full_KT, drawn_DKT, closed = _draws(seed, sampled_t)
        error = (drawn_DKT.mean(0) - full_KT).norm() / full_KT.norm()
        yield {"sampled_t": str(sampled_t), "alpha": ALPHAS[0], "value": float(error), "se": (closed / DRAWS) ** 0.5}


def _draws(seed: int, sampled_t: int | str) -> tuple[torch.Tensor, torch.Tensor, float]:
    """The gradient over all t, (K, T), those of many draws, (D, K, T), and the loss's own relative variance."""
    config = gnivo.settings(weights="normalised", sampled_t=sampled_t, alpha=ALPHAS[0])
    one, many = (gnivo.random_group(LENGTH, 4, copies, seed) for copies in (1, DRAWS))
    full_KT = grad(method.loss(one, gnivo.settings(weights="normalised", alpha=ALPHAS[0])).loss, one.logp_NT)
    chance = torch.Generator().manual_seed(seed)
    closed = method.loss(type(one)(**(vars(one) | {"generator": chance})), config).metrics["t_draw_variance"]
    drawn_NT = grad(method.loss(type(many)(**(vars(many) | {"generator": chance})), config).loss, many.logp_NT)
    return full_KT, DRAWS * drawn_NT.view(DRAWS, 4, LENGTH), closed


def group_scale(seed: int) -> Iterator[Row]:
    """log of the factor between the un-normalised weights of a group with rewards 3 and of one with rewards 0."""
    groups = Groups(2, torch.tensor([0, 0, 1, 1]), torch.ones(2, dtype=torch.float64))
    world, logits, _ = _least(seed)
    rewards_M = torch.tensor([3.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    logp_MT = world.logp(logits)
    for alpha in (0.1, 0.2):
        out = method.loss(groups.batch(world, logp_MT, logp_MT, rewards_M), gnivo.settings(alpha=alpha))
        yield {"alpha": alpha, "k": 2, "value": out.metrics["weight_scale_log_range"], "expected": 3 / alpha}


def temperature(seed: int) -> Iterator[Row]:
    """Responses drawn at 0.7 but log-ratios taken at 1: KL of the minimiser from the nearer of the two tilts."""
    world, logits, rewards_M = _ending(seed)
    alpha, tempered = ALPHAS[1], logits / TEMPERATURE
    targets = [tilted(world, policy, rewards_M, alpha) for policy in (logits, tempered)]
    for variant, weights in (("one_step", "normalised"), ("sequential", "unnormalised")):
        for matched in (False, True):
            start = tempered if matched else logits
            groups = unordered_groups(world.probability(tempered), 2)
            config = gnivo.settings(variant=variant, weights=weights, alpha=alpha, t_mode="max_new_tokens",
                                    max_length=3)
            found_M = world.probability(gnivo.learned_policy(world, start, rewards_M, groups, config))
            yield {"variant": variant, "weights": weights, "matched": matched, "alpha": alpha, "k": 2,
                   "value": min(divergence(found_M, target_M) for target_M in targets)}


CHECKS: dict[str, Callable[[int], Iterator[Row]]] = {check.__name__: check for check in (
    theorem_3_1, theorem_3_2, corollary_3_3, minimiser, reference, normalisation_bias, repeated, repeated_argmax,
    gradient_at_old, draw_variance, draw_bias, group_scale, temperature)
} | logged_checks.CHECKS | online_checks.CHECKS | guided_checks.CHECKS
