"""A chat model behind an OpenAI-compatible endpoint, through the `openai` library; the environment holds the key."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from rlfamily.errors import UserError
from rlfamily.judges import Answer, OpenAiJudge, OpenChooser, Question

if TYPE_CHECKING:
    import torch

VERSION = "1"
KEY = "OPENAI_API_KEY"
_ANSWERS: dict[str, Answer] = {"A": "first", "B": "second", "C": "tie"}


@dataclass(frozen=True)
class Judge:
    """Asks `client`, several questions at once; the library repeats calls that fail for a passing reason."""

    config: OpenAiJudge
    client: Any

    def answers(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer]]:
        """Yield answers as they come. Raises UserError when a call fails for good; nothing is sent after that."""
        from openai import OpenAIError

        failed = Event()

        def ask(text: str) -> Answer | None:
            if failed.is_set():
                return None
            try:
                return self._ask(text)
            except OpenAIError:
                failed.set()
                raise

        with ThreadPoolExecutor(self.config.parallel) as pool:
            futures = {pool.submit(ask, question.text): index for index, question in enumerate(questions)}
            try:
                for future in as_completed(futures):
                    answer = future.result()
                    if answer is not None:
                        yield futures[future], answer
            except OpenAIError as error:
                raise UserError(f"judge {self.config.name}: {' '.join(str(error).split())[:300]}: mend it and run the "
                                "same command again; the answers so far are kept") from error
            finally:
                failed.set()

    def _ask(self, text: str) -> Answer:
        options = {"temperature": self.config.temperature, "max_completion_tokens": self.config.max_output_tokens}
        completion = self.client.chat.completions.create(
            model=self.config.model, messages=[{"role": "user", "content": text}],
            **{name: value for name, value in options.items() if value is not None})
        return read(completion.choices[0].message.content or "" if completion.choices else "")


def read(reply: str) -> Answer:
    """The last [[A]], [[B]] or [[C]] of a reply, or a bare letter; a reply with neither is unreadable."""
    marked = re.findall(r"\[\[([ABC])\]\]", reply)
    letter = marked[-1] if marked else reply.strip().strip("[]().*")
    return _ANSWERS.get(letter, "unreadable")


def load(
    config: OpenAiJudge, model: Path | None, device: torch.device | None, vllm: OpenChooser | None = None
) -> Judge:
    """Make a client. Raises UserError when the environment has no key."""
    key = os.environ.get(KEY)
    if not key:
        raise UserError(f"judge {config.name}: {KEY} is not set in the environment: set it (any text for an endpoint "
                        "that asks for none), or use another task.judge.kind")
    from openai import OpenAI

    return Judge(config, OpenAI(api_key=key, base_url=config.base_url, max_retries=config.retries,
                                timeout=config.timeout_seconds))
