"""The Bradley-Terry reward model: its loss (report Eq. 3), and the reward it gives once trained.

As a training method it stands beside the algorithms: same contract, but the loss is a function of the scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlfamily import core
from rlfamily.algorithms import DataSource, LossBatch, LossOutput
from rlfamily.algorithms.settings import AlgorithmSettings
from rlfamily.rewards import Reward, RewardParts

if TYPE_CHECKING:
    from rlfamily.examples import Example
    from rlfamily.models.reward_model import RewardModel

Config = AlgorithmSettings
NEEDS: frozenset[str] = frozenset()
SOURCE: DataSource = "pairs"
VERSION = "1"


def loss(batch: LossBatch, config: Any) -> LossOutput:
    """-E[log sigmoid(r_w - r_l)] over pairs (chosen first); `rewards_N` are the scores, with gradient. Report Eq. 3.

    Invariant to adding any function of the prompt to the scores.
    """
    margin_B = batch.rewards_N[0::2] - batch.rewards_N[1::2]
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

    def score(self, examples: Sequence[Example], responses: Sequence[str]) -> list[RewardParts]:
        """Score response n (without its prompt) as an answer to example n, EOS included."""
        truth = self.truth.score(examples, responses)
        rewards = self.model.score_texts([example.prompt for example in examples], responses, self.micro_batch)
        return [RewardParts(reward, {**true.parts, "true_reward": true.reward})
                for reward, true in zip(rewards, truth, strict=True)]
