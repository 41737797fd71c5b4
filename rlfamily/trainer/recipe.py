"""What training does with a batch, whatever is trained: the trainer knows of no method and of no settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from rlfamily import values
from rlfamily.algorithms import Algorithm, LossBatch, LossOutput, needs
from rlfamily.algorithms.settings import AlgorithmSettings, ValueSettings
from rlfamily.rewards import bradley_terry
from rlfamily.settings import Optimizer, PairTraining
from rlfamily.shaping import ShapingConfig
from rlfamily.values import ValueBatch, ValueTraining

Seen = LossBatch | bradley_terry.ScoreBatch | ValueBatch
"""What a loss looks at: of a policy, of a reward model, of a value function."""


@dataclass(frozen=True)
class CriticShape:
    """Values come from the policy's own states or a network apart; `width` units of their head's hidden layer."""

    apart: bool = False
    width: int | None = None


@dataclass(frozen=True)
class Recipe:
    """A loss, a function of what it has `Seen` of a batch, and how it is minimised.

    `needs` names the forwards and inputs that the loss uses. `inner_updates` are made of a batch; with `mask_truncated`
    the loss sees nothing of truncated rows; with `kl_ref_every` n > 0 every n-th step measures the KL to the reference.
    `shaping` transforms the rewards that the loss sees; `selects`: a curriculum may drop groups, so that is recorded.
    """

    loss: Callable[[Any], LossOutput]
    optimizer: Optimizer
    lr_multiplier: float
    needs: frozenset[str] = frozenset()
    inner_updates: int = 1
    mask_truncated: bool = False
    kl_ref_every: int = 0
    shaping: Sequence[ShapingConfig] = ()
    selects: bool = False
    critic: CriticShape = CriticShape()

    @classmethod
    def of(cls, algorithm: Algorithm, settings: AlgorithmSettings, lr_multiplier: float) -> Recipe:
        """A training-time method with its settings."""
        return cls(partial(algorithm.loss, config=settings), settings.optimizer, lr_multiplier,
                   needs(algorithm, settings), settings.inner_updates, settings.mask_truncated, settings.kl_ref_every,
                   settings.shaping, settings.curriculum.kind != "in_order", _critic(settings))

    @classmethod
    def of_pairs(cls, training: PairTraining, lr_multiplier: float) -> Recipe:
        """A reward model fitted to preference pairs."""
        return cls(bradley_terry.loss, training.optimizer, lr_multiplier)

    @classmethod
    def of_values(cls, training: ValueTraining, lr_multiplier: float) -> Recipe:
        """A value function fitted to the outcomes of responses, or to other value functions."""
        loss = partial(values.get(training.loss.kind).loss, config=training.loss)
        return cls(loss, training.optimizer, lr_multiplier)


def _critic(settings: AlgorithmSettings) -> CriticShape:
    if not isinstance(settings, ValueSettings):
        return CriticShape()
    return CriticShape(settings.apart, settings.value_width)
