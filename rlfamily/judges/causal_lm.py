"""A local causal language model as a judge: which of A, B and C is the most probable next token after "[["."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlfamily.errors import UserError
from rlfamily.judges import Answer, CausalLmJudge, Choose, OpenChooser, Question

if TYPE_CHECKING:
    import torch

VERSION = "3"
_ANSWERS: tuple[Answer, ...] = ("first", "second", "tie")
_LETTERS = ("A", "B", "C")
_OPENING = "[["  # the answer's first characters are given, so that one token is left to choose


@dataclass(frozen=True)
class Judge:
    """Tokenizer, the ids of the three letters, the longest prompt it can read, and what opens the model for prompts."""

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
        return prompt_ids(self.tokenizer, text, _OPENING)


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


def letter_ids(tokenizer: Any) -> list[int]:
    """The token of each letter as it follows the prompt's own last token. Raises ValueError where they are not three.

    A tokenizer may write a letter at a word's beginning ("▁A") otherwise than after a bracket ("A").
    """
    prompt = prompt_ids(tokenizer, "", _OPENING)
    found = []
    for letter in _LETTERS:
        ids = prompt_ids(tokenizer, "", _OPENING + letter)
        if ids[:len(prompt)] == prompt and len(ids) == len(prompt) + 1:
            found.append(ids[-1])
        else:  # the bracket and the letter are one token: the model is asked for the letter behind the bracket
            found.append(tokenizer.convert_tokens_to_ids(letter))
    if len(set(found) - {None, tokenizer.unk_token_id}) < len(_LETTERS):
        raise ValueError("its tokenizer does not tell A, B and C apart")
    return found


def load(
    config: CausalLmJudge, model: Path | None, device: torch.device | None, vllm: OpenChooser | None = None
) -> Judge:
    """Open a hub artifact's folder; the weights are loaded when the first question is asked, by `vllm` or here.

    Raises UserError when it cannot be loaded or cannot tell A from B.
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
        ids = letter_ids(tokenizer)
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
