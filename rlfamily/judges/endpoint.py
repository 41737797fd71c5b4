"""An OpenAI-compatible endpoint, through the `openai` library; the environment holds the key."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from threading import Event
from typing import Any, TypeVar

from rlfamily.errors import UserError
from rlfamily.judges import Remote

KEY = "OPENAI_API_KEY"
Read = TypeVar("Read")


@dataclass(frozen=True)
class Endpoint:
    """Asks `client`, `parallel` requests at once; the library repeats calls that fail for a passing reason."""

    name: str
    parallel: int
    client: Any

    def replies(
        self, requests: Sequence[Mapping[str, Any]], read: Callable[[Any], Read]
    ) -> Iterator[tuple[int, Read]]:
        """Yield (index, what `read` makes of the reply's JSON) as replies come; requests are of chat completions.

        `read` raises ValueError for what is no chat completion. Raises UserError when a call fails for good; nothing is
        sent after that.
        """
        from openai import OpenAIError

        failed = Event()

        def ask(request: Mapping[str, Any]) -> tuple[Read] | None:
            if failed.is_set():
                return None
            try:
                return (self._ask(request, read),)
            except Exception:
                failed.set()
                raise

        with ThreadPoolExecutor(self.parallel) as pool:
            futures = {pool.submit(ask, request): index for index, request in enumerate(requests)}
            try:
                for future in as_completed(futures):
                    answer = future.result()
                    if answer is not None:
                        yield futures[future], answer[0]
            # A key that no header can hold, or an address that is none, fails below the library.
            except (OpenAIError, OSError, ValueError, TypeError) as error:
                raise self._failure(_cause(error)) from error
            finally:
                failed.set()

    def _ask(self, request: Mapping[str, Any], read: Callable[[Any], Read]) -> Read:
        reply = self.client.chat.completions.with_raw_response.create(**request).http_response
        try:
            return read(json.loads(reply.content))
        except ValueError as error:
            kind = reply.headers.get("content-type", "no type")
            shown = " ".join(reply.text.split())[:100] or "nothing"
            raise self._failure(f"the endpoint answered no chat completion ({kind}: {shown}): check "
                                "task.judge.base_url, which often ends in /v1") from error

    def _failure(self, cause: str) -> UserError:
        """One line; an endpoint that repeats the key does not bring it into a log."""
        line = " ".join(cause.replace(str(self.client.api_key), "(the key)").split())[:300]
        return UserError(f"judge {self.name}: {line}: mend it and run the same command again; the answers so far are "
                         "kept")


def _cause(error: Exception) -> str:
    """What went wrong, in the server's words where it has any."""
    response = getattr(error, "response", None)
    if response is not None and 300 <= response.status_code < 400:
        return (f"the endpoint sends the question on to {response.headers.get('location', 'nowhere')}, where the key "
                "does not go: give the address that answers as task.judge.base_url")
    return str(error) or type(error).__name__


def choice_of(body: Any) -> Any:
    """A chat completion's first choice; None where there is none. Raises ValueError for what is no chat completion."""
    if not isinstance(body, dict) or "choices" not in body:
        raise ValueError("no chat completion")
    return body["choices"][0] if isinstance(body["choices"], list) and body["choices"] else None


def open_endpoint(name: str, config: Remote) -> Endpoint:
    """Make a client. Raises UserError when the environment has no key; `name` is the judge's."""
    key = os.environ.get(KEY)
    if not key:
        raise UserError(f"judge {name}: {KEY} is not set in the environment: set it (any text for an endpoint that "
                        "asks for none), or use another task.judge.kind")
    from openai import DefaultHttpxClient, OpenAI

    try:
        # Redirects are not followed: the key and the questions go to the address that was given, and to no other.
        client = OpenAI(api_key=key, base_url=config.base_url, max_retries=config.retries,
                        timeout=config.timeout_seconds, http_client=DefaultHttpxClient(follow_redirects=False))
    except Exception as error:  # what an address that is none raises is the HTTP library's own affair
        raise UserError(f"judge {name}: {' '.join(str(error).split())}: mend task.judge.base_url") from error
    return Endpoint(name, config.parallel, client)
