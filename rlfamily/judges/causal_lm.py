"""A local causal language model as a judge: which of the answers begins with the most probable next token.

The first characters that all answers share are given: after our "[[" a letter is left to choose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlfamily.errors import UserError
from rlfamily.judges import Answer, CausalLmJudge, Choose, OpenChooser, Question
from rlfamily.judges.prompts import FORMS, Form

if TYPE_CHECKING:
    import torch

VERSION = "3"
_ANSWERS: tuple[Answer, ...] = ("first", "second", "tie")


@dataclass(frozen=True)
class Judge:
    """Tokenizer, each answer's first id, the longest prompt it can read, and what opens the model for prompts."""

    config: CausalLmJudge
    tokenizer: Any
    letters: list[int]
    limit: int | None
    open: Callable[[int], Choose]

    def answers(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer]]:
        """Answer `batch` questions at a time. A question too long for the model is unreadable."""
        rows = [self._ids(question.text) for question in questions]
        fitting = [index for index, row in enumerate(rows) if self.limit is None or len(row) <= self.limit]
        for index in sorted({*range(len(rows))} - {*fitting}):
            yield index, "unreadable"
        if not fitting:
            return
        choose = self.open(max(len(rows[index]) for index in fitting))
        for start in range(0, len(fitting), self.config.batch):
            part = fitting[start:start + self.config.batch]
            chosen = choose([rows[index] for index in part], self.letters)
            yield from ((index, _ANSWERS[letter]) for index, letter in zip(part, chosen, strict=True))

    def _ids(self, text: str) -> list[int]:
        return prompt_ids(self.tokenizer, text, FORMS[self.config.prompt].opening)


def prompt_ids(tokenizer: Any, text: str, answer: str) -> list[int]:
    """The prompt as one user turn where the tokenizer has a chat template, with the `answer` so far after it.

    Without a template the tokenizer's own beginning stands before the prompt, but not its end behind it: the answer
    goes on.
    """
    if tokenizer.chat_template:
        from rlfamily.models.tokens import chat_text, raw_ids

        return raw_ids(tokenizer, chat_text(tokenizer, [{"role": "user", "content": text}]) + answer)
    encoded = tokenizer(f"{text}\n{answer}", return_special_tokens_mask=True)
    ids, special = list(encoded["input_ids"]), encoded["special_tokens_mask"]
    while ids and special[len(ids) - 1]:
        ids.pop()
    return ids


def letter_ids(tokenizer: Any, form: Form) -> list[int]:
    """The first token of each answer as it follows the prompt's own last one. Raises ValueError where two are the same.

    A tokenizer may write a letter at a word's beginning ("▁A") otherwise than after a bracket ("A").
    """
    prompt = prompt_ids(tokenizer, "", form.opening)
    found = []
    for answer in form.answers:
        ids = prompt_ids(tokenizer, "", form.opening + answer) if form.opening else _turn_ids(tokenizer, prompt, answer)
        behind = ids[len(prompt):] if ids[:len(prompt)] == prompt else []
        if form.opening and len(behind) != 1:
            # The bracket and the letter are one token: the model is asked for the letter behind the bracket.
            behind = [tokenizer.convert_tokens_to_ids(answer)]
        found += behind[:1]
    if len(set(found) - {None, tokenizer.unk_token_id}) < len(form.answers):
        raise ValueError(f"its tokenizer does not tell {', '.join(form.answers)} apart by their first tokens")
    return found


def _turn_ids(tokenizer: Any, prompt: list[int], answer: str) -> list[int]:
    """The prompt and a whole answer, as the chat template writes the model's turns where those go on from the prompt.

    A template may set a blank before an answer, as the model then does.
    """
    if tokenizer.chat_template:
        from rlfamily.models.tokens import chat_text, raw_ids

        turns = [{"role": "user", "content": ""}, {"role": "assistant", "content": answer}]
        written = raw_ids(tokenizer, chat_text(tokenizer, turns, answered=True))
        if written[:len(prompt)] == prompt:
            return written
    return prompt_ids(tokenizer, "", answer)


def load(
    config: CausalLmJudge, model: Path | None, device: torch.device | None, vllm: OpenChooser | None = None
) -> Judge:
    """Open a hub artifact's folder; the weights are loaded when the first question is asked, by `vllm` or here.

    Raises UserError when it cannot be loaded or cannot tell its answers apart.
    """
    from transformers import AutoConfig, AutoTokenizer

    from rlfamily.models.policy import locate

    if model is None or device is None:
        raise UserError("task.judge.kind=causal_lm: no model was fetched: give task.judge.path and task.judge.revision")
    source, options = locate(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        positions = getattr(AutoConfig.from_pretrained(source, **options), "max_position_embeddings", None)
    except (OSError, ValueError) as error:
        raise _unloadable(config, source, error) from error
    try:
        ids = letter_ids(tokenizer, FORMS[config.prompt])
    except ValueError as error:
        raise UserError(f"judge {config.name}: {error}: use another model") from error
    if config.engine == "torch":
        return Judge(config, tokenizer, ids, positions, lambda longest: _chooser(config, model, device))
    assert vllm is not None, "who loads a judge on vllm passes what opens it"
    dtype = "bf16" if device.type == "cuda" else "fp32"
    # vLLM counts the answer's token to the context.
    return Judge(config, tokenizer, ids, positions and positions - 1, lambda longest: vllm(model, dtype, longest))


def _chooser(config: CausalLmJudge, folder: Path, device: torch.device) -> Choose:
    import torch
    from transformers import AutoModelForCausalLM

    from rlfamily.models.policy import locate

    source, options = locate(folder)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    try:
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, use_safetensors=True, **options)
    except (OSError, ValueError) as error:
        raise _unloadable(config, source, error) from error
    model = model.to(device).eval()

    def choose(rows: Sequence[Sequence[int]], allowed: Sequence[int]) -> list[int]:
        width = max(map(len, rows))
        ids_NL = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows])
        attention_NL = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        with torch.inference_mode():
            logits_NV = model(
                input_ids=ids_NL.to(device), attention_mask=attention_NL.to(device),
                position_ids=(attention_NL.cumsum(1) - 1).clamp(min=0).to(device),
                logits_to_keep=1, use_cache=False).logits[:, -1]
        chosen: list[int] = logits_NV[:, list(allowed)].argmax(1).tolist()
        return chosen

    return choose


def _unloadable(config: CausalLmJudge, source: str, error: Exception) -> UserError:
    return UserError(f"judge {config.name}: cannot load '{source}': {' '.join(str(error).split())[:300]}")
