"""The reward model: its start from a policy, what it reads, its bias, its folder."""

from __future__ import annotations

import math

import pytest
import torch

from rlfamily.examples import Example
from rlfamily.models import reward_model
from rlfamily.models.batching import Rows, pad
from rlfamily.models.tokens import encode_example
from rlfamily.rewards.bradley_terry import LearnedReward
from rlfamily.rewards.verifiable import Verifiable

CPU = torch.device("cpu")
PROMPTS = ["use 1 2 3 to make 6 :", "use 4 5 9 to make 18 :", "use 1 1 1 to make 3 :"]
RESPONSES = ["1 + 2 = 3 , 3 + 3 = 6 <answer> 1 + 2 + 3 </answer>", "4", "so 1 + 1"]


@pytest.fixture
def scorer(world):
    torch.manual_seed(0)
    return reward_model.load(world.base, world.finetuning, CPU, trainable=True)


def test_it_starts_from_the_policys_backbone(world, scorer):
    base = world.policy().model.state_dict()
    own = scorer.model.state_dict()
    shared = [name for name in own if name.startswith("model.")]
    assert len(shared) > 10
    assert all(torch.equal(own[name], base[name]) for name in shared)


def test_the_head_is_normal_with_the_stated_width(world):
    hidden = world.config.model.hidden_size
    torch.manual_seed(0)
    weights = torch.cat([
        reward_model.load(world.base, world.finetuning, CPU, trainable=True).model.score.weight.flatten() for _ in range(30)]).detach()
    assert float(weights.std()) == pytest.approx(1 / math.sqrt(hidden + 1), rel=0.1)
    assert abs(float(weights.mean())) < 4 / math.sqrt(hidden + 1) / math.sqrt(len(weights))


def test_the_score_is_read_at_the_last_real_token(scorer):
    rows = Rows([[5, 6, 7], [8], [9, 10]], [[11, 2], [12, 13, 14, 2], [2]])
    with torch.no_grad():
        together = scorer.evaluate(pad(rows, scorer.pad_id), 1.0).scores_N
        for n in range(3):
            ids = torch.tensor([[*rows.prompts[n], *rows.completions[n]]])
            hidden = scorer.model.base_model(ids).last_hidden_state[0, -1]
            assert float(together[n]) == pytest.approx(float(scorer.model.score(hidden)), abs=1e-5)


def test_texts_are_scored_one_by_one_or_together_without_bias(scorer):
    alone = [scorer.score_texts([prompt], [response], 1)[0] for prompt, response in zip(PROMPTS, RESPONSES, strict=True)]
    for micro_batch in (1, 2, 3, 8):
        assert scorer.score_texts(PROMPTS, RESPONSES, micro_batch) == pytest.approx(alone, abs=1e-5)
    scorer.bias = 0.5
    assert scorer.score_texts(PROMPTS, RESPONSES, 8) == pytest.approx([score - 0.5 for score in alone], abs=1e-5)
    assert scorer.score_texts([], [], 8) == []


def test_texts_are_read_with_their_end(scorer):
    ids = [list(scorer.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (PROMPTS[0], RESPONSES[0])]
    with torch.no_grad():
        score = scorer.evaluate(pad(Rows([ids[0]], [[*ids[1], scorer.eos_id]]), scorer.pad_id), 1.0).scores_N
    assert scorer.score_texts(PROMPTS[:1], RESPONSES[:1], 1) == pytest.approx(score.tolist(), abs=1e-6)


def test_a_response_without_an_end_is_read_without_one(scorer):
    prompt, text = (list(scorer.tokenizer(text, add_special_tokens=False)["input_ids"])
                    for text in (PROMPTS[0], RESPONSES[0]))
    expected = scorer.score_rows(Rows([prompt, prompt], [text, [*text, scorer.eos_id]]), 2)
    assert expected[0] != pytest.approx(expected[1], abs=1e-3)
    assert scorer.score_texts(PROMPTS[:1] * 2, RESPONSES[:1] * 2, 2, [True, False]) == pytest.approx(expected, abs=1e-6)
    assert len(scorer.score_texts(PROMPTS[:1], [""], 2, [True])) == 1


def test_a_chat_is_scored_as_its_policy_was_given_it(world, scorer):
    """Pairs hold what the policy read and wrote; the same ids are scored, whether a limit cut the response or not."""
    scorer.tokenizer.chat_template = "{% for message in messages %}use 7 {{ message.content }} {% endfor %}so 1"
    example = Example("a", "use 1", {"messages": [{"role": "user", "content": "2 3"}]})
    prompt = encode_example(scorer.tokenizer, example)
    text = list(scorer.tokenizer(RESPONSES[2], add_special_tokens=False)["input_ids"])
    scorer.bias = 0.5
    truth = Verifiable(lambda response, meta: {"format": 1.0, "valid": 0.0})
    for cut, ids in ((True, text), (False, [*text, scorer.eos_id])):
        (expected,) = scorer.score_rows(Rows([prompt], [ids]), 1)
        (found,) = LearnedReward(scorer, truth, 8).score([example], [RESPONSES[2]], [cut])
        assert found.reward == pytest.approx(expected - 0.5, abs=1e-5)
        assert found.parts == {"format": 1.0, "valid": 0.0, "true_reward": 0.0}
    (plain,) = scorer.score_texts([example.prompt], [RESPONSES[2]], 1)
    assert found.reward != pytest.approx(plain, abs=1e-4)


@pytest.mark.parametrize(("prompt", "completions", "limit", "expected"), [
    ([1, 2, 3, 4], [[6, 7, 8], [6, 7, 9]], 6, ([2, 3, 4], [[6, 7, 8], [6, 7, 9]], True)),
    ([1, 2, 3, 4], [[6], [6, 7, 9]], 5, ([3, 4], [[6], [6, 7, 9]], True)),
    ([1, 2], [[6, 7, 8, 9], [5, 9]], 3, ([2], [[8, 9], [5, 9]], True)),
    ([1, 2], [[6, 7]], 4, ([1, 2], [[6, 7]], False)),
    ([1, 2], [[6, 7]], 1, ([2], [[7]], True)),
])
def test_a_limit_takes_the_beginning_and_keeps_the_end(prompt, completions, limit, expected):
    rows, cut = reward_model.fitted(prompt, completions, limit)
    assert (rows.prompts[0], rows.completions, cut) == expected
    assert all(row == rows.prompts[0] for row in rows.prompts)


def test_it_comes_back_with_its_head_and_its_bias(world, scorer, tmp_path):
    scorer.bias = 1.25
    scorer.save(tmp_path)
    again = reward_model.load(tmp_path, world.finetuning, CPU, trainable=False)
    assert again.bias == 1.25
    own = scorer.model.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in again.model.state_dict().items())
    assert again.score_texts(PROMPTS, RESPONSES, 3) == pytest.approx(scorer.score_texts(PROMPTS, RESPONSES, 3), abs=1e-5)
    assert not any(parameter.requires_grad for parameter in again.model.parameters())
    assert not list(tmp_path.glob("*.bin"))
