"""A local causal language model as a judge: which of A, B and C is the most probable next token after "[["."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlfamily.errors import UserError
from rlfamily.judges import Answer, CausalLmJudge, Question

if TYPE_CHECKING:
    import torch

_ANSWERS: tuple[Answer, ...] = ("first", "second", "tie")
_LETTERS = ("A", "B", "C")
_OPENING = "[["  # the answer's first characters are given, so that one token is left to choose


@dataclass(frozen=True)
class Judge:
    """Model, tokenizer and the ids of the three letters."""

    config: CausalLmJudge
    model: Any
    tokenizer: Any
    letters: list[int]

    def answers(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer]]:
        """Answer in order, `batch` questions to a forward pass. A question too long for the model is unreadable."""
        for start in range(0, len(questions), self.config.batch):
            chosen = self._choose([self._ids(question.text) for question in questions[start:start + self.config.batch]])
            yield from ((start + index, answer) for index, answer in enumerate(chosen))

    def _choose(self, ids: list[list[int]]) -> list[Answer]:
        import torch

        limit = getattr(self.model.config, "max_position_embeddings", None) or max(map(len, ids))
        fitting = [index for index, row in enumerate(ids) if len(row) <= limit]
        answers: list[Answer] = ["unreadable"] * len(ids)
        if not fitting:
            return answers
        width = max(len(ids[index]) for index in fitting)
        pads = [width - len(ids[index]) for index in fitting]
        ids_NL = torch.tensor([[0] * pad + ids[index] for pad, index in zip(pads, fitting, strict=True)])
        attention_NL = torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads])
        with torch.inference_mode():
            logits_NV = self.model(
                input_ids=ids_NL.to(self.model.device), attention_mask=attention_NL.to(self.model.device),
                position_ids=(attention_NL.cumsum(1) - 1).clamp(min=0).to(self.model.device),
                logits_to_keep=1, use_cache=False).logits[:, -1]
        for index, letter in zip(fitting, logits_NV[:, self.letters].argmax(1).tolist(), strict=True):
            answers[index] = _ANSWERS[letter]
        return answers

    def _ids(self, text: str) -> list[int]:
        """The prompt as one user turn where the tokenizer has a chat template, with the answer's opening after it."""
        if self.tokenizer.chat_template:
            text = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
            return list(self.tokenizer(text + _OPENING, add_special_tokens=False)["input_ids"])
        return list(self.tokenizer(f"{text}\n{_OPENING}")["input_ids"])


def load(config: CausalLmJudge, model: Path | None, device: torch.device | None) -> Judge:
    """Load the model of a hub artifact's folder. Raises UserError when it cannot be loaded or cannot tell A from B."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rlfamily.models.policy import locate

    if model is None or device is None:
        raise UserError("task.judge.kind=causal_lm: no model was fetched: give task.judge.path and task.judge.revision")
    source, options = locate(model)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        loaded = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, use_safetensors=True, **options)
    except (OSError, ValueError) as error:
        raise UserError(f"judge {config.name}: cannot load '{source}': {' '.join(str(error).split())[:300]}") from error
    letters = [tokenizer.encode(letter, add_special_tokens=False)[-1:] for letter in _LETTERS]
    if not all(letters) or len({letter[0] for letter in letters}) < len(_LETTERS):
        raise UserError(f"judge {config.name}: its tokenizer does not tell A, B and C apart: use another model")
    return Judge(config, loaded.to(device).eval(), tokenizer, [letter[0] for letter in letters])
