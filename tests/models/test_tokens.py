"""What a model is given begins as in its training, and every one of its end tokens ends a response."""

from __future__ import annotations

import json
from datetime import datetime

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import GenerationConfig, PreTrainedTokenizerFast

from rlfamily.config import build
from rlfamily.errors import UserError
from rlfamily.examples import Example
from rlfamily.models.policy import POINTER, load_tokenizer
from rlfamily.models.tokens import end_ids, prompt_ids, raw_ids
from rlfamily.plan import stages
from rlfamily.rollout.collect import encode_completion, encode_example, encode_prompt

WORDS = ["<s>", "</s>", "<turn>", "a", "b", "q", "user", "assistant"]
CHAT = ("{% for message in messages %}{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}<s> {{ message.role }} {{ message.content }} {% endfor %}")


def tokenizer(begins: bool, chat: str | None = None):
    inner = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="q"))
    inner.pre_tokenizer = WhitespaceSplit()
    if begins:
        inner.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    made = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")
    made.chat_template = chat
    return made


def test_a_plain_prompt_begins_as_its_tokenizer_begins_texts():
    assert encode_prompt(tokenizer(True), "a b") == [0, 3, 4]
    assert encode_prompt(tokenizer(False), "a b") == [3, 4]


def test_what_begins_so_already_gets_no_second_one():
    assert prompt_ids(tokenizer(True), "<s> a") == [0, 3]


def test_responses_have_no_beginning():
    assert encode_completion(tokenizer(True), "a b", 9) == [3, 4, 1]
    assert raw_ids(tokenizer(True), "a") == [3]


def test_a_chat_begins_as_its_template_says():
    example = Example(id="x", prompt="a", meta={"messages": [{"role": "user", "content": "a"}]})
    assert encode_example(tokenizer(True, CHAT), example) == [0, 6, 3]


def test_a_task_without_a_chat_gives_an_instruct_model_its_own_text():
    """Mathematics and prompt generation: the paper's template as it is, with BOS, whatever the tokenizer offers."""
    assert encode_example(tokenizer(True, CHAT), Example(id="x", prompt="a b", meta={"answer": "b"})) == [0, 3, 4]


def test_a_conversation_that_the_template_refuses_is_one_line():
    twice = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    with pytest.raises(UserError, match=r"its chat template refuses the conversation of x \(roles user, user\)"):
        encode_example(tokenizer(True, CHAT), Example(id="x", prompt="a", meta={"messages": twice}))


@pytest.mark.parametrize(("named", "ends"), [(None, (1,)), (1, (1,)), (2, (1, 2)), ([1, 2], (1, 2)), ([2, 5], (1, 2, 5))])
def test_every_end_token_counts(named, ends):
    assert end_ids(tokenizer(False), GenerationConfig(eos_token_id=named)) == ends
    assert end_ids(tokenizer(False), None) == (1,)


def test_a_model_without_an_end_is_refused():
    endless = tokenizer(False)
    endless.eos_token = None
    with pytest.raises(UserError, match="names an end-of-sequence token"):
        end_ids(endless, GenerationConfig())


DATED = ("{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
         "today {{ date_string }} {{ strftime_now('%Y-%m-%d') }} {{ messages[0].content }}")


def dated(words):
    made = tokenizer(False, DATED)
    made.add_tokens(words)
    return made


@pytest.mark.parametrize("clock", ["2026-11-12", "2027-01-01"])
def test_a_template_that_asks_for_the_date_gets_the_same_one_on_any_day(monkeypatch, tmp_path, clock):
    class Clock(datetime):
        @classmethod
        def now(cls, *_):
            return datetime.fromisoformat(clock)

    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Clock)
    chat = Example(id="x", prompt="a", meta={"messages": [{"role": "user", "content": "a"}]})
    words = ["today", "26", "Jul", "2024", "2024-07-26", "01", "Feb", "2025", "2025-02-01"]
    made = dated(words)
    assert made.convert_ids_to_tokens(encode_example(made, chat)) == ["today", "26", "Jul", "2024", "2024-07-26", "a"]

    # a model that names its day keeps it, and so does what is saved of it
    made.save_pretrained(tmp_path / "published")
    (tmp_path / POINTER).write_text(json.dumps({
        "path": str(tmp_path / "published"), "revision": "main", "date_string": "01 Feb 2025"}))
    named = load_tokenizer(tmp_path)
    named.save_pretrained(tmp_path / "trained")
    for found in (named, load_tokenizer(tmp_path / "trained")):
        assert found.convert_ids_to_tokens(encode_example(found, chat)) == [
            "today", "01", "Feb", "2025", "2025-02-01", "a"]


def test_the_day_is_part_of_every_key_and_must_be_one():
    one, other = (stages(build(["model=qwen25_05b", f"model.date_string={day}"]), ["train"])["train"].key
                  for day in ("26 Jul 2024", "27 Jul 2024"))
    assert one != other
    with pytest.raises(UserError, match=r'date_string: write the day as in "26 Jul 2024", got \'today\''):
        build(["model=qwen25_05b", "model.date_string=today"])
