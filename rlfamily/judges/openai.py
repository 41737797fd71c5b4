"""A chat model behind an OpenAI-compatible endpoint, through the `openai` library; the environment holds the key."""

from __future__ import annotations

import json
import os
import re
import unicodedata
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

VERSION = "2"
KEY = "OPENAI_API_KEY"
_ANSWERS: dict[str, Answer] = {"A": "first", "B": "second", "C": "tie", "NEUTRAL": "tie"}
_DRESS = r"[\s*_`'\"\\$.:]*"  # blanks, markdown, quotes: what may stand around a letter
_MARKED = re.compile(rf"\[{_DRESS}\[{_DRESS}([ABC]){_DRESS}\]{_DRESS}\]", re.IGNORECASE)
_BARE = re.compile(rf"{_DRESS}[\[(]*{_DRESS}([ABC]){_DRESS}[\])]*{_DRESS}")
_PLAIN = re.compile(rf"{_DRESS}(A|B|(?i:neutral)){_DRESS}")
_THOUGHT = re.compile(r"[<\[◁](/?)(?:think|thinking|thought|reasoning)[>\]▷]", re.IGNORECASE)


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
            except Exception:
                failed.set()
                raise

        with ThreadPoolExecutor(self.config.parallel) as pool:
            futures = {pool.submit(ask, question.text): index for index, question in enumerate(questions)}
            try:
                for future in as_completed(futures):
                    answer = future.result()
                    if answer is not None:
                        yield futures[future], answer
            # A key that no header can hold, or an address that is none, fails below the library.
            except (OpenAIError, OSError, ValueError, TypeError) as error:
                raise self._failure(_cause(error)) from error
            finally:
                failed.set()

    def _ask(self, text: str) -> Answer:
        options = {"temperature": self.config.temperature, "max_completion_tokens": self.config.max_output_tokens}
        reply = self.client.chat.completions.with_raw_response.create(
            model=self.config.model, messages=[{"role": "user", "content": text}],
            **{name: value for name, value in options.items() if value is not None}).http_response
        try:
            return read(content(json.loads(reply.content)), self.config.prompt)
        except ValueError as error:
            kind = reply.headers.get("content-type", "no type")
            shown = " ".join(reply.text.split())[:100] or "nothing"
            raise self._failure(f"the endpoint answered no chat completion ({kind}: {shown}): check "
                                "task.judge.base_url, which often ends in /v1") from error

    def _failure(self, cause: str) -> UserError:
        """One line; an endpoint that repeats the key does not bring it into a log."""
        line = " ".join(cause.replace(str(self.client.api_key), "(the key)").split())[:300]
        return UserError(f"judge {self.config.name}: {line}: mend it and run the same command again; the answers so "
                         "far are kept")


def _cause(error: Exception) -> str:
    """What went wrong, in the server's words where it has any."""
    response = getattr(error, "response", None)
    if response is not None and 300 <= response.status_code < 400:
        return (f"the endpoint sends the question on to {response.headers.get('location', 'nowhere')}, where the key "
                "does not go: give the address that answers as task.judge.base_url")
    return str(error) or type(error).__name__


def content(body: Any) -> str:
    """The text of a chat completion's first choice, thoughts left out; "" where there is none.

    Raises ValueError when the body is no chat completion.
    """
    if not isinstance(body, dict) or "choices" not in body:
        raise ValueError("no chat completion")
    choice = body["choices"][0] if isinstance(body["choices"], list) and body["choices"] else None
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
    key = os.environ.get(KEY)
    if not key:
        raise UserError(f"judge {config.name}: {KEY} is not set in the environment: set it (any text for an endpoint "
                        "that asks for none), or use another task.judge.kind")
    from openai import DefaultHttpxClient, OpenAI

    try:
        # Redirects are not followed: the key and the questions go to the address that was given, and to no other.
        client = OpenAI(api_key=key, base_url=config.base_url, max_retries=config.retries,
                        timeout=config.timeout_seconds, http_client=DefaultHttpxClient(follow_redirects=False))
    except Exception as error:  # what an address that is none raises is the HTTP library's own affair
        raise UserError(f"judge {config.name}: {' '.join(str(error).split())}: mend task.judge.base_url") from error
    return Judge(config, client)
