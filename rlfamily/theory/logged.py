"""RPO, DRO, KTO and OREO on enumerable worlds: the log of all responses, samples of it, and where losses lead there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlfamily.algorithms import LossBatch, dro, kto, oreo, rpo, sft_logged
from rlfamily.algorithms.settings import Kl
from rlfamily.theory.tilting import minimiser, soft_values
from rlfamily.theory.world import World

NO_KL = Kl(coef=0.0, form="k3", place="loss")
DESCENT_STEPS, DESCENT_RATE, DESCENT_DECAY = 400, 0.1, 0.98  # Adam: far enough for what tau=1 asks, then to a halt


def rpo_settings(partition: str, log_ratio: str, tau: float) -> rpo.Config:
    """The settings that the loss reads; those of a run have no meaning here. So for the other methods."""
    return rpo.Config.model_construct(partition=partition, log_ratio=log_ratio, tau=tau)


def dro_settings(variant: str, tau: float) -> dro.Config:
    """See `rpo_settings`."""
    return dro.Config.model_construct(variant=variant, tau=tau)


def kto_settings(variant: str, beta: float) -> kto.Config:
    """See `rpo_settings`; good from 0 on, both sides weigh 1."""
    return kto.Config.model_construct(variant=variant, beta=beta, good_weight=1.0, bad_weight=1.0, threshold=0.0)


def oreo_settings(level: str, beta: float) -> oreo.Config:
    """See `rpo_settings`; without KL."""
    return oreo.Config.model_construct(level=level, beta=beta, kl=NO_KL)


def whole_log(
    world: World, logits: Tensor, ref: Tensor, rewards_M: Tensor, weight_M: Tensor | None, **fields: Any
) -> LossBatch:
    """All responses to one prompt, each once, as frequent in the log as its weight says."""
    first_M, length_M = world.mask_MT[:, :1].sum(1).long(), world.mask_MT.sum(1).long()
    return LossBatch(
        world.logp(logits), world.mask_MT, rewards_M, 0, ref_logp_NT=world.logp(ref.detach()), row_weight_N=weight_M,
        prompt_index_N=torch.zeros_like(length_M), step_ends_NS=torch.stack([first_M, length_M], 1), **fields)


def log_weights(world: World, ref: Tensor, log: str, seed: int) -> Tensor | None:
    """How frequent each response is in a log that came from pi_ref, from another policy, or holds each once."""
    if log == "uniform":
        return None
    return world.probability(ref if log == "reference" else world.logits(seed + 500).detach())


def learned_policy(
    world: World, ref: Tensor, rewards_M: Tensor, weight_M: Tensor | None, config: rpo.Config
) -> Tensor:
    """Logits of the policy that minimises RPO's loss, (S, V)."""
    return minimiser(ref, lambda logits: rpo.loss(
        whole_log(world, logits, ref, rewards_M, weight_M), config).loss)


def learned_jointly(
    world: World, ref: Tensor, rewards_M: Tensor, weight_M: Tensor | None, config: dro.Config
) -> tuple[Tensor, float]:
    """Policy, (S, V), and value of the prompt that minimise DRO's loss together."""

    def objective(both_P: Tensor) -> Tensor:
        batch = whole_log(world, both_P[:-1].view_as(ref), ref, rewards_M, weight_M,
                          prompt_values_N=both_P[-1].expand(len(rewards_M)))
        return dro.loss(batch, config).loss

    found_P = minimiser(torch.cat([ref.flatten(), torch.zeros(1, dtype=torch.float64)]), objective)
    return found_P[:-1].view_as(ref), float(found_P[-1])


def state_values(world: World, ref: Tensor, rewards_M: Tensor, tau: float) -> Tensor:
    """tau times the soft value of the state before each token, (M, T)."""
    return tau * soft_values(world, ref, rewards_M, tau)[:, :-1]


def descended(
    world: World, ref: Tensor, rewards_M: Tensor, weight_M: Tensor | None, config: oreo.Config
) -> tuple[Tensor, Tensor]:
    """Policy, (S, V), and value of each state, (S,), where OREO's steps end: its gradient is no function's."""
    logits, values_S = ref.clone().requires_grad_(), torch.zeros(world.num_states, dtype=torch.float64).requires_grad_()
    optimiser = torch.optim.Adam([logits, values_S], lr=DESCENT_RATE)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, DESCENT_DECAY)
    for _ in range(DESCENT_STEPS):
        batch = whole_log(world, logits, ref, rewards_M, weight_M, values_NT=values_S[world.state_MT])
        optimiser.zero_grad()
        oreo.loss(batch, config).loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return logits.detach(), values_S.detach()


def value_errors(
    world: World, ref: Tensor, rewards_M: Tensor, index_BK: Tensor, partition: str, tau: float, distinct: bool
) -> Tensor:
    """V of each logged group less V*, (B,). `distinct`: what a group logged before is taken out of it."""
    groups, size = index_BK.shape
    index_BK = index_BK.sort(1).values
    index_N = index_BK.flatten()
    mask_NT = world.mask_MT[index_N]
    if distinct:
        again_BK = torch.nn.functional.pad(index_BK[:, 1:] == index_BK[:, :-1], (1, 0))
        mask_NT = mask_NT * ~again_BK.flatten()[:, None]
    logp_NT = world.logp(ref.detach())[index_N]
    batch = LossBatch(logp_NT, mask_NT, rewards_M[index_N], 0, ref_logp_NT=logp_NT,
                      prompt_index_N=torch.arange(groups).repeat_interleave(size))
    value_N = tau * rpo.scaled_values(batch, partition, tau)  # type: ignore[arg-type]
    best = tau * (world.sequence_logp(ref.detach()) + rewards_M / tau).logsumexp(0)
    return value_N.view(groups, size)[:, 0] - best


def long_responses(rewards: tuple[float, ...], means: tuple[float, ...], length: int, dtype: torch.dtype) -> LossBatch:
    """One prompt's responses of one length, every token as likely to the reference as the response's mean."""
    ref_NT = torch.tensor(means, dtype=dtype)[:, None].expand(-1, length)
    return LossBatch(ref_NT.clone().requires_grad_(), torch.ones_like(ref_NT), torch.tensor(rewards, dtype=dtype), 0,
                     ref_logp_NT=ref_NT, prompt_index_N=torch.zeros(len(rewards), dtype=torch.long))


def imitation_cosine(batch: LossBatch, config: rpo.Config) -> float:
    """Cosine between the gradients of RPO and of SFT on the same log, with respect to the token log-probs."""
    ours_NT, imitation_NT = (
        torch.autograd.grad(loss, batch.logp_NT)[0]
        for loss in (rpo.loss(batch, config).loss,
                     sft_logged.loss(batch, sft_logged.Config.model_construct()).loss))
    return float(torch.nn.functional.cosine_similarity(ours_NT.flatten(), imitation_NT.flatten(), dim=0))
