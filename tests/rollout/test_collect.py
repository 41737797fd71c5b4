"""What the policy is given: the prompt as it is, or the chat in its own template."""

from __future__ import annotations

import copy

import pytest

from rlfamily.rollout.collect import encode_example, encode_prompt
from rlfamily.tasks import Example

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
