"""The report's reward, eq. 8: two parts in {-1, +1}, their sum in {-2, 0, 2}."""

from __future__ import annotations

import pytest

from rlfamily.examples import Example
from rlfamily.rewards import Reward, RewardParts
from rlfamily.rewards.noise import RandomReward
from rlfamily.rewards.verifiable import Verifiable
from rlfamily.tasks import countdown

EXAMPLE = Example("test-0", "use 3 7 12 to make 22 :", {"nums": [3, 7, 12], "target": 22})


@pytest.mark.parametrize(("response", "expected"), [
    ("no answer", RewardParts(-2.0, {"format": 0.0, "valid": 0.0})),
    ("<answer> 3 + 7 </answer>", RewardParts(0.0, {"format": 1.0, "valid": 0.0})),
    ("<answer> 3 + 7 + 12 </answer>", RewardParts(2.0, {"format": 1.0, "valid": 1.0})),
])
def test_parts(response: str, expected: RewardParts) -> None:
    assert Verifiable(countdown.score).score([EXAMPLE], [response]) == [expected]


def test_responses_are_scored_in_order_against_their_own_example() -> None:
    reward: Reward = Verifiable(countdown.score)
    other = Example("test-1", "use 2 3 to make 6 :", {"nums": [2, 3], "target": 6})
    responses = ["<answer> 3 + 7 + 12 </answer>", "no answer", "<answer> 2 + 3 </answer>", "<answer> 2 * 3 </answer>"]
    scored = reward.score([EXAMPLE, EXAMPLE, other, other], responses)
    assert [row.reward for row in scored] == [2.0, -2.0, 0.0, 2.0]
    assert reward.score([], []) == []


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="argument"):
        Verifiable(countdown.score).score([EXAMPLE], [])


def test_noise_knows_nothing_of_the_truth_and_keeps_it_beside() -> None:
    responses = ["no answer", "<answer> 3 + 7 + 12 </answer>"] * 200
    examples = [Example(f"test-{n // 2}", EXAMPLE.prompt, EXAMPLE.meta) for n in range(400)]
    noise = RandomReward(Verifiable(countdown.score), seed=3)
    scored = noise.score(examples, responses)
    assert scored == noise.score(examples, responses) != RandomReward(Verifiable(countdown.score), seed=4).score(examples, responses)
    assert scored[1].parts == {"format": 1.0, "valid": 1.0, "true_reward": 2.0}
    wrong, right = ([row.reward for row in scored[offset::2]] for offset in (0, 1))
    assert abs(sum(wrong) / 200) < 0.35 and abs(sum(right) / 200) < 0.35  # five standard errors
    assert 0.8 < sum(value**2 for value in wrong) / 200 < 1.25
