"""The ways in which transformers draws the same responses, each as its documentation has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList

from bench.drawing import Draws, force


class Ends(LogitsProcessor):
    """Ends each row at the length that its draws prescribe."""

    def __init__(self, given: Draws, width: int, model: Any) -> None:
        self.lengths, self.width, self.eos_id = given.lengths, width, model.config.eos_token_id
        self.length_N = torch.tensor(given.lengths, device=model.device)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """`scores` of the next token, forced; `input_ids` are prompt and response so far."""
        step = input_ids.shape[1] - self.width + 1
        ending = (self.length_N == step).nonzero()[:, 0] if step in self.lengths else None
        return force(scores, ending, self.eos_id)


def padded(model: Any, prompts: list[list[int]]) -> tuple[Tensor, Tensor]:
    """ids_BP and attention_BP, prompts padded on the left."""
    width = max(map(len, prompts))
    ids = [[model.config.pad_token_id] * (width - len(prompt)) + prompt for prompt in prompts]
    attention = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=model.device), torch.tensor(attention, device=model.device)


def _generate(
    model: Any, given: Draws, greedy: bool, ids: Tensor, attention: Tensor, **options: Any
) -> list[list[int]]:
    sampling = {"do_sample": False} if greedy else {"do_sample": True, "top_k": 0}
    out_NL = model.generate(
        ids, attention_mask=attention, **sampling, max_new_tokens=given.new_tokens,
        logits_processor=LogitsProcessorList([Ends(given, ids.shape[1], model)]), **options)
    rows = out_NL[:, ids.shape[1]:].tolist()
    return [row[:length] for row, length in zip(rows, given.lengths, strict=True)]


def dynamic(model: Any, given: Draws, greedy: bool = False, **options: Any) -> list[list[int]]:
    """`generate` as it stands: a growing cache, every row with a copy of its prompt."""
    ids_BP, attention_BP = padded(model, given.prompts)
    if greedy:  # num_return_sequences is refused there
        ids_BP, attention_BP = (part.repeat_interleave(given.copies, 0) for part in (ids_BP, attention_BP))
    else:
        options["num_return_sequences"] = given.copies
    return _generate(model, given, greedy, ids_BP, attention_BP, **options)


def static(model: Any, given: Draws, greedy: bool = False, **options: Any) -> list[list[int]]:
    """The same with `cache_implementation="static"`, which is compiled on GPUs."""
    return dynamic(model, given, greedy, cache_implementation="static", **options)


def prefilled(model: Any, given: Draws, greedy: bool = False) -> list[list[int]]:
    """A cache filled with each prompt once, then repeated for its copies and handed to `generate`."""
    ids_BP, attention_BP = padded(model, given.prompts)
    cache = DynamicCache(config=model.config)
    before_BP = attention_BP[:, :-1]
    with torch.inference_mode():
        model.get_decoder()(
            input_ids=ids_BP[:, :-1], attention_mask=before_BP, past_key_values=cache,
            position_ids=(before_BP.cumsum(1) - 1).clamp(min=0))
    cache.batch_repeat_interleave(given.copies)
    ids_NP, attention_NP = (part.repeat_interleave(given.copies, 0) for part in (ids_BP, attention_BP))
    return _generate(model, given, greedy, ids_NP, attention_NP, past_key_values=cache)


WAYS: dict[str, Callable[[Any, Draws, bool], list[list[int]]]] = {
    "dynamic": dynamic, "static": static, "prefilled": prefilled}
