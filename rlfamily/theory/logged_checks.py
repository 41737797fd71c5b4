"""The checks of the theory stage that belong to methods of logged responses: see `checks`.

A check is named after the method whose loss it takes; `tau` is that method's temperature, whatever its own name for it.
The world has 15 responses of 1 to 3 tokens, of which one word is the end of sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from rlfamily.algorithms import LossBatch, dro, kto, oreo, rpo
from rlfamily.theory import logged
from rlfamily.theory.tilting import divergence, tilted
from rlfamily.theory.world import World, drawn, grad

Row = dict[str, Any]

TAUS = (0.1, 1.0, 5.0)  # RPO's grid
LOGS = ("reference", "uniform", "other")  # where the logged responses come from
DRAWN = 2**18  # responses drawn for a bias, in groups of any size
SIZES = (1, 4, 64, 1024)
SHIFT, SCALE = 3.0, 2.5  # a constant added to rewards; a factor of rewards, values and temperature
# one prompt as Flan-T5 sees it: rewards, mean log-probs of a token, tokens
LONG = ((1.2, 0.4, -0.4, -1.2), (-1.4, -1.6, -1.5, -1.8), 150)
PARTITIONS = (  # with the log-ratio that each is meant for
    ("paper_logspace", "sum"), ("mc", "sum"), ("none", "sum"), ("mc", "mean"), ("repo", "mean"),
    ("mass_normalised", "mean"), ("none", "mean"))


def _ending(seed: int) -> tuple[World, Tensor, Tensor]:
    return drawn(seed, 3, 3, True)


def rpo_reference(seed: int) -> Iterator[Row]:
    """KL of the reference from pi*: what the divergences of the other checks are small against."""
    world, ref, rewards_M = _ending(seed)
    for tau in TAUS:
        value = divergence(world.probability(ref), tilted(world, ref, rewards_M, tau))
        yield {"tau": tau, "value": value, "expected": None}


def rpo_minimiser(seed: int) -> Iterator[Row]:
    """KL from pi* of the policy that minimises RPO's loss, for every partition and every log (R2).

    The log holds all responses once, so that paper_logspace has the exact V* whatever the frequencies, and mc has it
    where they are those of pi_ref. The others have another V, or another log-ratio.
    """
    world, ref, rewards_M = _ending(seed)
    for tau in TAUS:
        best_M = tilted(world, ref, rewards_M, tau)
        for partition, log_ratio in PARTITIONS:
            for log in LOGS if partition == "paper_logspace" else LOGS[:2]:
                weight_M = logged.log_weights(world, ref, log, seed)
                config = logged.rpo_settings(partition, log_ratio, tau)
                found = logged.learned_policy(world, ref, rewards_M, weight_M, config)
                exact = partition == "paper_logspace" or (partition, log_ratio, log) == ("mc", "sum", "reference")
                yield {"partition": partition, "log_ratio": log_ratio, "log": log, "tau": tau,
                       "value": divergence(world.probability(found), best_M), "expected": 0.0 if exact else None}


def rpo_value_bias(seed: int) -> Iterator[Row]:
    """Mean of V less V* where n responses were drawn from pi_ref (R3)."""
    world, ref, rewards_M = _ending(seed)
    chance = torch.Generator().manual_seed(seed)
    index_N = torch.multinomial(world.probability(ref), DRAWN, replacement=True, generator=chance)
    for partition, distinct in (("mc", False), ("paper_logspace", False), ("paper_logspace", True)):
        for n in SIZES:
            for tau in TAUS:
                error_B = logged.value_errors(world, ref, rewards_M, index_N.view(-1, n), partition, tau, distinct)
                yield {"partition": partition, "distinct": distinct, "n": n, "tau": tau, "value": float(error_B.mean()),
                       "se": float(error_B.std() / len(error_B) ** 0.5)}


def rpo_underflow(seed: int) -> Iterator[Row]:
    """V/tau of 150-token responses: log space in fp32 against fp64, and what exp leaves of it in fp32 (R4)."""
    for tau in TAUS:
        single, double = (logged.long_responses(*LONG, dtype) for dtype in (torch.float32, torch.float64))
        value, expected = (float(rpo.scaled_values(batch, "paper_logspace", tau)[0]) for batch in (single, double))
        yield {"way": "log space", "tau": tau, "value": value, "expected": expected}
        mass = (single.logp_NT.detach().sum(1).exp() * (single.rewards_N / tau).exp()).sum()
        yield {"way": "exp", "tau": tau, "value": float(mass), "expected": None}


def rpo_target(seed: int) -> Iterator[Row]:
    """(r - V)/tau of the best and of the worst of the 150-token responses (R4)."""
    for partition in ("repo", "mass_normalised", "mc", "none", "paper_logspace"):
        for tau in TAUS:
            batch = logged.long_responses(*LONG, torch.float64)
            target_N = batch.rewards_N / tau - rpo.scaled_values(batch, partition, tau)
            for which, row in (("best", 0), ("worst", -1)):
                yield {"partition": partition, "of": which, "tau": tau, "value": float(target_N[row]),
                       "expected": None}


def rpo_imitation(seed: int) -> Iterator[Row]:
    """Cosine between the first gradients of RPO and of SFT on the 150-token responses: 1 is SFT on all of them (R4)."""
    for partition, log_ratio in PARTITIONS:
        for tau in TAUS:
            batch = logged.long_responses(*LONG, torch.float64)
            value = logged.imitation_cosine(batch, logged.rpo_settings(partition, log_ratio, tau))
            yield {"partition": partition, "log_ratio": log_ratio, "tau": tau, "value": value, "expected": None}


def rpo_effective_size(seed: int) -> Iterator[Row]:
    """(sum w)^2 / sum w^2 of four responses weighed by their probability, or by its mean over tokens (R4)."""
    batch = logged.long_responses(*LONG, torch.float64)
    for way, log_weight_N in (("sum", batch.logp_NT.detach().sum(1)), ("mean", batch.logp_NT.detach().mean(1))):
        for tau in TAUS:
            yield {"log_ratio": way, "tau": tau, "value": float(1 / log_weight_N.softmax(0).square().sum()),
                   "expected": None}


def rpo_length(seed: int) -> Iterator[Row]:
    """Between the log-ratios that one reward asks of 50 and of 150 tokens with a mean log-prob of -1 (R4)."""
    for tau in TAUS:
        asked = []
        for length in (50, 150):
            batch = logged.long_responses((0.5,), (-1.0,), length, torch.float64)
            asked.append(length * float((batch.rewards_N / tau - rpo.scaled_values(batch, "repo", tau))[0]))
        yield {"partition": "repo", "tau": tau, "value": asked[1] - asked[0], "expected": None}


def rpo_shift(seed: int) -> Iterator[Row]:
    """Change of the loss where a constant is added to all rewards of the prompt."""
    world, ref, rewards_M = _ending(seed)
    logits = world.logits(seed + 1)
    for partition, log_ratio in PARTITIONS:
        for tau in TAUS:
            config = logged.rpo_settings(partition, log_ratio, tau)
            before, after = (rpo.loss(logged.whole_log(world, logits, ref, rewards_M + shift, None), config).loss
                             for shift in (0.0, SHIFT))
            yield {"partition": partition, "log_ratio": log_ratio, "tau": tau,
                   "expected": None if partition == "none" else 0.0, "value": float((after - before).detach().abs())}


def dro_minimiser(seed: int) -> Iterator[Row]:
    """KL from pi* of the policy, and error of the value, that minimise DRO's joint loss (R1)."""
    world, ref, rewards_M = _ending(seed)
    for tau in TAUS:
        best_M, best = tilted(world, ref, rewards_M, tau), float(logged.state_values(world, ref, rewards_M, tau)[0, 0])
        for variant in ("joint", "repo"):
            for log in LOGS:
                weight_M = logged.log_weights(world, ref, log, seed)
                config = logged.dro_settings(variant, tau)
                found, value = logged.learned_jointly(world, ref, rewards_M, weight_M, config)
                about = {"variant": variant, "log": log, "tau": tau, "expected": 0.0 if variant == "joint" else None}
                yield about | {"of": "policy", "value": divergence(world.probability(found), best_M)}
                yield about | {"of": "value", "value": abs(value - best)}


def dro_fixed_point(seed: int) -> Iterator[Row]:
    """Largest gradient at pi*: with V*, and with a value of 0 instead (R1). In a log of pi* itself any value does."""
    world, ref, rewards_M = _ending(seed)
    for tau in TAUS:
        best_M = tilted(world, ref, rewards_M, tau)
        logits = world.policy(best_M).requires_grad_()
        for value, log in (("exact", "other"), ("none", "other"), ("none", "optimal")):
            weight_M = best_M if log == "optimal" else logged.log_weights(world, ref, log, seed)
            value_M = logged.state_values(world, ref, rewards_M, tau)[:, 0] * (value == "exact")
            for variant in ("joint", "separate"):
                batch = logged.whole_log(world, logits, ref, rewards_M, weight_M, prompt_values_N=value_M)
                slope = grad(dro.loss(batch, logged.dro_settings(variant, tau)).loss, logits)
                yield {"variant": variant, "of": value, "log": log, "tau": tau, "value": float(slope.abs().max()),
                       "expected": None if (value, log) == ("none", "other") else 0.0}


def dro_gradient(seed: int) -> Iterator[Row]:
    """Largest difference between tau times the separate and the joint gradient of the policy, and of the value's."""
    world, ref, rewards_M = _ending(seed)
    logits, value = world.logits(seed + 1), torch.tensor([0.3], dtype=torch.float64).requires_grad_()
    for tau in TAUS:
        batch = logged.whole_log(world, logits, ref, rewards_M, logged.log_weights(world, ref, "other", seed),
                                 prompt_values_N=value.expand(len(rewards_M)))
        joint, separate = (dro.loss(batch, logged.dro_settings(name, tau)).loss for name in ("joint", "separate"))
        policy = tau * grad(separate, logits) - grad(joint, logits)
        yield {"of": "policy", "tau": tau, "value": float(policy.abs().max())}
        yield {"of": "value", "tau": tau, "value": float((grad(separate, value) - grad(joint, value)).abs().max())}


def dro_scale(seed: int) -> Iterator[Row]:
    """Factor of the joint loss where rewards, value and tau are all multiplied by 2.5."""
    world, ref, rewards_M = _ending(seed)
    value_M, logits = torch.full_like(rewards_M, 0.3), world.logits(seed + 1)
    for tau in TAUS:
        before, after = (float(dro.loss(
            logged.whole_log(world, logits, ref, c * rewards_M, None, prompt_values_N=c * value_M),
            logged.dro_settings("joint", c * tau)).loss.detach()) for c in (1.0, SCALE))
        yield {"tau": tau, "value": after / before, "expected": SCALE**2}


def oreo_fixed_point(seed: int) -> Iterator[Row]:
    """Largest gradient of policy and values at pi* and V*, on responses of another policy (R8)."""
    world, ref, rewards_M = _ending(seed)
    weight_M = logged.log_weights(world, ref, "other", seed)
    for tau in TAUS:
        logits = world.policy(tilted(world, ref, rewards_M, tau)).requires_grad_()
        values_MT = logged.state_values(world, ref, rewards_M, tau).requires_grad_()
        for level in ("token", "step"):
            loss = oreo.loss(logged.whole_log(world, logits, ref, rewards_M, weight_M, values_NT=values_MT),
                             logged.oreo_settings(level, tau)).loss
            value = max(float(grad(loss, leaf).abs().max()) for leaf in (logits, values_MT))
            yield {"level": level, "tau": tau, "value": value}


def oreo_descent(seed: int) -> Iterator[Row]:
    """KL from pi* of the policy where OREO's steps end, from the reference, on 4 responses of another policy (R8)."""
    world, ref, rewards_M = drawn(seed, 2, 3, True)
    weight_M = logged.log_weights(world, ref, "other", seed)
    for tau in TAUS[1:]:
        for level in ("token", "step"):
            found, _ = logged.descended(world, ref, rewards_M, weight_M, logged.oreo_settings(level, tau))
            value = divergence(world.probability(found), tilted(world, ref, rewards_M, tau))
            yield {"level": level, "tau": tau, "value": value}


def kto_gradient(seed: int) -> Iterator[Row]:
    """Largest |dL/d rho_i + (+-1) beta s (1 - s)/N|, s = sigmoid(+-beta (rho_i - z0)), + for a good response (KT1)."""
    world, ref, rewards_M = _ending(seed)
    for tau in TAUS:
        batch = logged.whole_log(world, world.logits(seed + 1), ref, rewards_M, None)
        rho_M = ((batch.logp_NT - world.logp(ref)) * world.mask_MT).sum(1).detach()
        sign_M = torch.where(rewards_M >= 0, 1.0, -1.0)
        s_M = (sign_M * rho_M / tau).sigmoid()
        slope_MT = grad(kto.loss(batch, logged.kto_settings("canonical", 1 / tau)).loss, batch.logp_NT)
        error_M = slope_MT[:, 0] + sign_M * s_M * (1 - s_M) / tau / len(rho_M)
        yield {"tau": tau, "value": float(error_M.abs().max())}


def kto_saturation(seed: int) -> Iterator[Row]:
    """Gradient of a response's log-ratio where all four log-ratios are 0, and where all are 8, beta 1 (KT2)."""
    for variant in ("canonical", "repo"):
        for shift in (0.0, 8.0):
            logp_NT = torch.full((4, 1), -9.0, dtype=torch.float64)
            moved_NT = (logp_NT + shift).requires_grad_()
            batch = LossBatch(moved_NT, torch.ones_like(logp_NT), torch.ones(4, dtype=torch.float64), 0,
                              ref_logp_NT=logp_NT, prompt_index_N=torch.arange(4))
            slope_NT = grad(kto.loss(batch, logged.kto_settings(variant, 1.0)).loss, moved_NT)
            yield {"variant": variant, "shift": shift, "tau": 1.0, "value": float(slope_NT.abs().max()),
                   "expected": None}


def kto_reference_point(seed: int) -> Iterator[Row]:
    """z0 from other prompts' responses, drawn by the reference or by the policy, against KL(pi || pi_ref) (KT3).

    Unclamped, responses of the reference give -KL(pi_ref || pi); those that are at hand are none of the policy's.
    """
    world, ref, rewards_M = _ending(seed)
    for tau in TAUS:
        logits = world.policy(tilted(world, ref, rewards_M, tau))
        log_ratio_M = world.sequence_logp(logits) - world.sequence_logp(ref)
        true = divergence(world.probability(logits), world.probability(ref))
        for log, weight_M in (("reference", world.probability(ref)), ("policy", world.probability(logits))):
            batch = logged.whole_log(world, logits, ref, rewards_M, weight_M, mismatched_logp_NT=world.logp(logits),
                                     mismatched_mask_NT=world.mask_MT, mismatched_ref_logp_NT=world.logp(ref))
            found = kto.loss(batch, logged.kto_settings("canonical", 1.0)).metrics["reference_point"]
            yield {"log": log, "clamped": True, "tau": tau, "value": found, "expected": true}
            yield {"log": log, "clamped": False, "tau": tau, "value": float(weight_M @ log_ratio_M), "expected": true}


CHECKS: dict[str, Callable[[int], Iterator[Row]]] = {check.__name__: check for check in (
    rpo_reference, rpo_minimiser, rpo_value_bias, rpo_underflow, rpo_target, rpo_imitation, rpo_effective_size,
    rpo_length, rpo_shift, dro_minimiser, dro_fixed_point, dro_gradient, dro_scale, oreo_fixed_point, oreo_descent,
    kto_gradient, kto_saturation, kto_reference_point)}
