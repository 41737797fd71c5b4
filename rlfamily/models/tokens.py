"""From text to the token ids that a model was trained on: with its beginning-of-sequence token, where it has one."""

from __future__ import annotations

from functools import lru_cache

from transformers import GenerationConfig, PreTrainedTokenizerBase

from rlfamily.errors import UserError


def prompt_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a plain prompt, without an end token; BOS first, once, where the tokenizer puts it before a text."""
    ids, first = raw_ids(tokenizer, text), _beginning(tokenizer)
    return ids if ids[:len(first)] == first else [*first, *ids]


def raw_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of the text and nothing else: of a response, or of a chat, whose template writes BOS itself."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@lru_cache(maxsize=64)
def _beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """[BOS] when the tokenizer begins every text with it, else []."""
    bos = tokenizer.bos_token_id
    marked = list(tokenizer("a", add_special_tokens=True)["input_ids"])
    return [int(bos)] if bos is not None and marked[:1] == [bos] and raw_ids(tokenizer, "a")[:1] != [bos] else []


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
