"""The Bradley-Terry reward model: its loss (report Eq. 3), and the reward it gives once trained.

As a training method it stands beside the algorithms, but the loss is a function of scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlfamily import core
from rlfamily.algorithms import LossOutput
from rlfamily.rewards import Reward, RewardParts

if TYPE_CHECKING:
    from torch import Tensor

    from rlfamily.examples import Example
    from rlfamily.models.reward_model import RewardModel

VERSION = "2"


@dataclass(frozen=True)
class ScoreBatch:
    """What a loss of scores may look at: preference pairs, chosen first. Gradient flows through `scores_N`.

    `row_weight_N` multiplies a pair's contribution to the expectation (both rows carry it); None means equal weights.
    """

    scores_N: Tensor
    row_weight_N: Tensor | None = None


def loss(batch: ScoreBatch) -> LossOutput:
    """-E[log sigmoid(r_w - r_l)] over pairs. Report Eq. 3.

    Invariant to adding any function of the prompt to the scores.
    """
    margin_B = batch.scores_N[0::2] - batch.scores_N[1::2]
    weight_B = None if batch.row_weight_N is None else batch.row_weight_N[0::2]
    value = core.expectation_over_rows(core.bradley_terry_nll(margin_B), weight_B)
    metrics = {"margin": core.expectation_over_rows(margin_B, weight_B),
               "accuracy": core.expectation_over_rows((margin_B > 0).to(margin_B.dtype), weight_B)}
    return LossOutput(value, core.to_floats(metrics))


@dataclass(frozen=True)
class LearnedReward:
    """Scores responses with a trained model; the true reward's parts are recorded beside it, never used to train."""

    model: RewardModel
    truth: Reward
    micro_batch: int

    def score(
        self, examples: Sequence[Example], responses: Sequence[str], truncated: Sequence[bool] = ()
    ) -> list[RewardParts]:
        """Score response n as an answer to example n, both in the form of the pairs that the model was fitted to."""
        truth = self.truth.score(examples, responses, truncated)
        rewards = self.model.score_examples(examples, responses, truncated, self.micro_batch)
        return [RewardParts(reward, {**true.parts, "true_reward": true.reward})
                for reward, true in zip(rewards, truth, strict=True)]
