"""The report's reward, eq. 8: two parts in {-1, +1}, their sum in {-2, 0, 2}."""

from __future__ import annotations

import pytest

from rlfamily.rewards import Reward, RewardParts
from rlfamily.rewards.verifiable import Verifiable, parts
from rlfamily.tasks import Example, Score, countdown

EXAMPLE = Example("test-0", "use 3 7 12 to make 22 :", {"nums": [3, 7, 12], "target": 22})


@pytest.mark.parametrize(("score", "expected"), [
    (Score(format=False, valid=False), RewardParts(reward=-2.0, format=-1.0, valid=-1.0)),
    (Score(format=True, valid=False), RewardParts(reward=0.0, format=1.0, valid=-1.0)),
    (Score(format=True, valid=True), RewardParts(reward=2.0, format=1.0, valid=1.0)),
])
def test_parts(score: Score, expected: RewardParts) -> None:
    assert parts(score) == expected


def test_responses_are_scored_in_order_against_their_own_example() -> None:
    reward: Reward = Verifiable(countdown)
    other = Example("test-1", "use 2 3 to make 6 :", {"nums": [2, 3], "target": 6})
    responses = ["<answer> 3 + 7 + 12 </answer>", "no answer", "<answer> 2 + 3 </answer>", "<answer> 2 * 3 </answer>"]
    scored = reward.score([EXAMPLE, EXAMPLE, other, other], responses)
    assert [row.reward for row in scored] == [2.0, -2.0, 0.0, 2.0]
    assert reward.score([], []) == []


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="argument"):
        Verifiable(countdown).score([EXAMPLE], [])
