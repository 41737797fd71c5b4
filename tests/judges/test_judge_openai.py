"""The OpenAI path against a local endpoint: requests, key, retries, failures."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from stub import Stub, serving
from test_judge_pairwise import PAIRS, REMOTE, settings

from rlfamily.errors import UserError
from rlfamily.judges import get
from rlfamily.judges.cache import Cache
from rlfamily.judges.openai import KEY, read
from rlfamily.judges.pairwise import judge_pairs


@contextmanager
def endpoint(reply, failures=()):
    """Serve chat completions by `reply(prompt)`; the first calls fail with the codes given. Yields (url, requests)."""
    requests, codes, lock = [], list(failures), threading.Lock()

    class Handler(Stub):
        def do_POST(self) -> None:
            body = self.body()
            with lock:
                requests.append({"path": self.path, "key": self.headers["Authorization"], **body})
                code = codes.pop(0) if codes else 200
            content = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [
                {"index": 0, "finish_reason": "stop",
                 "message": {"role": "assistant", "content": reply(body["messages"][0]["content"])}}]}
            self.answer(code, content if code == 200 else {"error": {"message": f"code {code}"}})

    with serving(Handler) as url:
        yield f"{url}/v1", requests


def longer(prompt: str) -> str:
    first, second = [line for line in prompt.splitlines() if line.startswith("> ")][1:3]
    return "[[C]]" if len(first) == len(second) else "[[A]]" if len(first) > len(second) else "I say [[B]]"


def judged(url: str, root: Path, **changes) -> list[str]:
    config = settings(REMOTE, base_url=url, timeout_seconds=10.0, **changes)
    found = judge_pairs(PAIRS, config, Cache(root, config.identity()), lambda: get("openai").load(config, None, None),
                        lambda cost: None, lambda done, total: None)
    return [one.outcome for one in found]


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv(KEY, "not-a-key")


def test_verdicts_and_requests(tmp_path, key) -> None:
    with endpoint(longer) as (url, requests):
        assert judged(url, tmp_path) == ["win", "loss", "tie", "tie"]
    assert len(requests) == 6
    assert all(request["path"] == "/v1/chat/completions" and request["key"] == "Bearer not-a-key" for request in requests)
    assert all(request["model"] == "m" and request["temperature"] == 0.0 and request["max_completion_tokens"] == 8
               for request in requests)


def test_null_settings_are_left_out(tmp_path, key) -> None:
    with endpoint(longer) as (url, requests):
        judged(url, tmp_path, temperature=None, max_output_tokens=None)
    assert not [request for request in requests if {"temperature", "max_completion_tokens"} & set(request)]


def test_a_replay_needs_neither_key_nor_network(tmp_path, key, monkeypatch) -> None:
    with endpoint(longer) as (url, _):
        first = judged(url, tmp_path)
    monkeypatch.delenv(KEY)
    assert judged(url, tmp_path) == first


def test_passing_failures_are_tried_again(tmp_path, key) -> None:
    with endpoint(longer, failures=[500, 429]) as (url, requests):
        assert judged(url, tmp_path, retries=2, parallel=1) == ["win", "loss", "tie", "tie"]
    assert len(requests) == 8


def test_retries_have_a_limit_and_end_in_one_line(tmp_path, key) -> None:
    with endpoint(longer, failures=[500] * 3) as (url, requests):
        with pytest.raises(UserError, match="judge m at .*run the same command again") as failure:
            judged(url, tmp_path, retries=2, parallel=1)
        assert len(requests) == 3
        assert "\n" not in str(failure.value)
        assert judged(url, tmp_path, retries=0) == ["win", "loss", "tie", "tie"]


def test_a_refused_key_is_not_tried_again(tmp_path, key) -> None:
    with endpoint(longer, failures=[401] * 99) as (url, requests):
        with pytest.raises(UserError, match="401"):
            judged(url, tmp_path, retries=5, parallel=1)
        assert len(requests) == 1


def test_without_a_key_nothing_is_asked(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv(KEY, raising=False)
    with endpoint(longer) as (url, requests):
        with pytest.raises(UserError, match=f"{KEY} is not set"):
            judged(url, tmp_path)
        assert not requests


def test_a_chatty_model_is_refused(tmp_path, key) -> None:
    with endpoint(lambda prompt: "both are nice") as (url, _), pytest.raises(UserError, match="6 of 6 answers"):
        judged(url, tmp_path)


@pytest.mark.parametrize(("reply", "answer"), [
    ("[[A]]", "first"), ("B", "second"), (" [C]. ", "tie"), ("first [[A]], no: [[B]]", "second"), ("", "unreadable"),
    ("A is better", "unreadable"), ("[[D]]", "unreadable"), ("**A**", "first"),
])
def test_reading_replies(reply: str, answer: str) -> None:
    assert read(reply) == answer
