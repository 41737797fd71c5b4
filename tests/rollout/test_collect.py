"""What the policy is given: the prompt as it is, or the chat in its own template; what it is taught; its streams."""

from __future__ import annotations

import copy

import pytest

from rlfamily.examples import Example
from rlfamily.rollout.collect import decode, encode_completion, encode_example, encode_prompt
from rlfamily.streams import stream_seed

TEMPLATE = "{% for m in messages %}{{ m.content }} :{% endfor %}{% if add_generation_prompt %} <think>{% endif %}"


@pytest.fixture
def chatting(world):
    tokenizer = copy.deepcopy(world.policy().tokenizer)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def test_a_chat_goes_through_the_template(chatting):
    example = Example("x", "use 3 5", {"messages": [{"role": "user", "content": "use 7 8"}]})
    ids = encode_example(chatting, example)
    assert ids == encode_prompt(chatting, "use 7 8 : <think>") != encode_prompt(chatting, example.prompt)


def test_no_chat_or_no_template_is_the_prompt_itself(world, chatting):
    plain = Example("x", "use 3 5", {})
    chat = Example("x", "use 3 5", {"messages": [{"role": "user", "content": "use 7 8"}]})
    tokenizer = world.policy().tokenizer
    assert encode_example(chatting, plain) == encode_example(tokenizer, chat) == encode_prompt(tokenizer, "use 3 5")


def test_streams_have_no_pattern():
    seeds = {stream_seed(seed, "rollout", epoch, f"train-{n}") + k
             for seed in range(3) for epoch in range(2) for n in range(50) for k in range(4)}
    assert len(seeds) == 3 * 2 * 50 * 4
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert stream_seed(1, 2, 3) != stream_seed(12, 3)


def test_completions_end_with_eos_unless_cut(world):
    tokenizer = world.policy().tokenizer
    ids = encode_completion(tokenizer, "1 + 2 = 3", 40)
    assert ids[-1] == tokenizer.eos_token_id
    assert len(ids) == 6
    assert encode_completion(tokenizer, "1 + 2 = 3", 4) == ids[:4]
    assert decode(tokenizer, [ids, ids[:3]]) == ["1 + 2 = 3", "1 + 2"]
