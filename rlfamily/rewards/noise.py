"""The random reward: a negative control. What a method gains on it, it did not gain from rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlfamily.rewards import Reward, RewardParts
from rlfamily.streams import reward_noise

if TYPE_CHECKING:
    from rlfamily.examples import Example

VERSION = "1"


@dataclass(frozen=True)
class RandomReward:
    """A standard normal number for each response, a function of seed, prompt and text; the true parts beside it.

    The true reward is recorded as the part `true_reward`.
    """

    truth: Reward
    seed: int

    def score(
        self, examples: Sequence[Example], responses: Sequence[str], truncated: Sequence[bool] = ()
    ) -> list[RewardParts]:
        """Score response n (without its prompt) as an answer to example n."""
        truth = self.truth.score(examples, responses, truncated)
        return [RewardParts(reward_noise(self.seed, example.id, response).gauss(),
                            {**true.parts, "true_reward": true.reward})
                for example, response, true in zip(examples, responses, truth, strict=True)]
