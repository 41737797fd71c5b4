"""A chat model behind an OpenAI-compatible endpoint: how its replies are read."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlfamily.judges import Answer, OpenAiJudge, OpenChooser, Question
from rlfamily.judges.endpoint import KEY as KEY
from rlfamily.judges.endpoint import Endpoint, choice_of, open_endpoint

if TYPE_CHECKING:
    import torch

VERSION = "2"
_ANSWERS: dict[str, Answer] = {"A": "first", "B": "second", "C": "tie", "NEUTRAL": "tie"}
_DRESS = r"[\s*_`'\"\\$.:]*"  # blanks, markdown, quotes: what may stand around a letter
_MARKED = re.compile(rf"\[{_DRESS}\[{_DRESS}([ABC]){_DRESS}\]{_DRESS}\]", re.IGNORECASE)
_BARE = re.compile(rf"{_DRESS}[\[(]*{_DRESS}([ABC]){_DRESS}[\])]*{_DRESS}")
_PLAIN = re.compile(rf"{_DRESS}(A|B|(?i:neutral)){_DRESS}")
_THOUGHT = re.compile(r"[<\[◁](/?)(?:think|thinking|thought|reasoning)[>\]▷]", re.IGNORECASE)


@dataclass(frozen=True)
class Judge:
    """Asks an endpoint, several questions at once."""

    config: OpenAiJudge
    endpoint: Endpoint

    def answers(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer]]:
        """Yield answers as they come. Raises UserError when a call fails for good; nothing is sent after that."""
        options = {"temperature": self.config.temperature, "max_completion_tokens": self.config.max_output_tokens}
        said = {name: value for name, value in options.items() if value is not None}
        requests = [{"model": self.config.model, "messages": [{"role": "user", "content": question.text}], **said}
                    for question in questions]
        yield from self.endpoint.replies(requests, lambda body: read(content(body), self.config.prompt))


def content(body: Any) -> str:
    """The text of a chat completion's first choice, thoughts left out; "" where there is none.

    Raises ValueError when the body is no chat completion.
    """
    choice = choice_of(body)
    message = choice.get("message") if isinstance(choice, dict) else None
    text = message.get("content") if isinstance(message, dict) else None
    parts = text if isinstance(text, list) else [text]
    texts = [part.get("text") if isinstance(part, dict) and part.get("type", "text") in ("text", "output_text")
             else part for part in parts]
    return "".join(text for text in texts if isinstance(text, str))


def read(reply: str, prompt: str) -> Answer:
    """The one [[A]], [[B]] or [[C]] of a reply, or a bare letter, whatever markdown or blanks stand around it.

    In RPO's form (`prompt`) a reply is A, B or Neutral and nothing else, but for such dress. Only what follows a closed
    thought counts. An open thought, no verdict and two different ones are unreadable.
    """
    reply = unicodedata.normalize("NFKC", reply)
    tags = list(_THOUGHT.finditer(reply))
    if tags and not tags[-1][1]:
        return "unreadable"
    answer = reply[tags[-1].end():] if tags else reply
    if prompt == "rpo":
        plain = _PLAIN.fullmatch(answer)
        return _ANSWERS[plain[1].upper()] if plain else "unreadable"
    letters = {letter.upper() for letter in _MARKED.findall(answer)}
    if not letters and (bare := _BARE.fullmatch(answer)):
        letters = {bare[1]}
    return _ANSWERS[letters.pop()] if len(letters) == 1 else "unreadable"


def load(
    config: OpenAiJudge, model: Path | None, device: torch.device | None, vllm: OpenChooser | None = None
) -> Judge:
    """Make a client. Raises UserError when the environment has no key."""
    return Judge(config, open_endpoint(config.name, config))
