"""From text to the token ids that a model was trained on: with its beginning-of-sequence token, where it has one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache

from jinja2 import TemplateError
from transformers import GenerationConfig, PreTrainedTokenizerBase

from rlfamily.errors import UserError
from rlfamily.examples import Example
from rlfamily.models import DATE_FORMAT

DATE = "date_string"  # where a tokenizer keeps it, and what chat templates call it
_CLOCK = re.compile(r"strftime_now\(\s*(['\"])(.*?)\1\s*\)")
DEFAULT_DATE = "26 Jul 2024"  # of models that name none; Llama 3.2's template has it for where there is no clock


def prompt_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a plain prompt, without an end token; BOS first, once, where the tokenizer puts it before a text."""
    ids, first = raw_ids(tokenizer, text), _beginning(tokenizer)
    return ids if ids[:len(first)] == first else [*first, *ids]


def raw_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of the text and nothing else: of a response, or of a chat, whose template writes BOS itself."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def same_tokens(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Whether both read a text as the same tokens: they have one vocabulary, one template and one beginning."""
    return (one.get_vocab() == other.get_vocab() and one.chat_template == other.chat_template
            and _beginning(one) == _beginning(other))


def chat_text(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]], answered: bool = False
) -> str:
    """A chat as the tokenizer's template writes it, up to where the answer begins, or `answered`; for `raw_ids`.

    A template that asks for the date gets the tokenizer's own: the same prompt has the same ids on any day.
    Raises jinja2's TemplateError for a chat that the template refuses.
    """
    date = tokenizer.init_kwargs.get(DATE, DEFAULT_DATE)
    day = datetime.strptime(date, DATE_FORMAT)
    # Written into the template: transformers takes no function in place of its own clock.
    template = _CLOCK.sub(lambda call: f"'{day.strftime(call[2])}'", tokenizer.get_chat_template())
    return str(tokenizer.apply_chat_template(
        [*messages], tokenize=False, add_generation_prompt=not answered, date_string=date, chat_template=template))


def encode_example(tokenizer: PreTrainedTokenizerBase, example: Example) -> list[int]:
    """Token ids of what the policy is given: the chat in meta["messages"] when its tokenizer has a chat template.

    Otherwise, and for tasks without a chat, the prompt as it is. Raises UserError for a chat that the template refuses.
    """
    messages = example.meta.get("messages")
    if not messages or not tokenizer.chat_template:
        return prompt_ids(tokenizer, example.prompt)
    try:
        return raw_ids(tokenizer, chat_text(tokenizer, messages))
    except TemplateError as error:
        roles = ", ".join(str(message.get("role")) for message in messages)
        raise UserError(f"model: its chat template refuses the conversation of {example.id} (roles {roles}): "
                        f"{' '.join(str(error).split())}") from error


@lru_cache(maxsize=64)
def _beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """[BOS] when the tokenizer begins every text with it, else []."""
    bos = tokenizer.bos_token_id
    marked = list(tokenizer("a", add_special_tokens=True)["input_ids"])
    return [int(bos)] if bos is not None and marked[:1] == [bos] and raw_ids(tokenizer, "a")[:1] != [bos] else []


def text_end(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """What the tokenizer puts behind every text: T5's end token, say; the ids that a prompt has lack it."""
    plain, marked = raw_ids(tokenizer, "a"), list(tokenizer("a", add_special_tokens=True)["input_ids"])
    behind = next((place + len(plain) for place in range(len(marked)) if marked[place:place + len(plain)] == plain),
                  len(marked))
    return tuple(marked[behind:])


def end_ids(tokenizer: PreTrainedTokenizerBase, generation: GenerationConfig | None) -> tuple[int, ...]:
    """Every token that ends a response, ascending: the tokenizer's EOS, and those of the model's generation_config.

    Chat models have several: one ends a turn, another the text. Raises UserError when there is none.
    """
    named = generation.eos_token_id if generation is not None else None
    several = named if isinstance(named, list | tuple) else [named]
    ids = {int(token) for token in [tokenizer.eos_token_id, *several] if token is not None}
    if not ids:
        raise UserError("model: neither its tokenizer nor its generation_config names an end-of-sequence token: "
                        "set eos_token in tokenizer_config.json")
    return tuple(sorted(ids))
