"""The OpenAI path against a local endpoint: requests, key, retries, failures."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from stub import Stub, serving
from test_judge_pairwise import PAIRS, REMOTE, settings

from rlfamily.errors import UserError
from rlfamily.judges import Question, get
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
    ("[[A]]", "first"), ("B", "second"), (" [C]. ", "tie"), ("", "unreadable"), ("I say [[B]], yes [[B]]", "second"),
    ("A is better", "unreadable"), ("[[D]]", "unreadable"), ("**A**", "first"),
    # Two verdicts are none.
    ("first [[A]], no: [[B]]", "unreadable"), ("[[A]] [[B]] [[C]]", "unreadable"),
    # Blanks, markdown, quotes and brackets of other kinds do no harm.
    ("[[ A ]]", "first"), ("`[[B]]`", "second"), ("[[`B`]]", "second"), ("**[[C]]**", "tie"), ("[[**A**]]", "first"),
    ("[ [A] ]", "first"), ("\\[\\[A\\]\\]", "first"), ("[[a]]", "first"), ("［［Ａ］］", "first"), ("`A`", "first"),
    ("[[A]]\n", "first"), ('"[[B]]"', "second"), ("[[A.]]", "first"),
    # Thoughts do not count; what follows a closed one does.
    ("<think>A reads well, so [[A]] at first sight. However", "unreadable"), ("<think>[[A]]?</think>[[B]]", "second"),
    ("[[A]]? no.</think>\n\n[[B]]", "second"), ("<think>so [[A]]</think>", "unreadable"),
    ("<thinking>[[C]]</thinking> A", "first"), ("[THINK]hm [[A]][/THINK][[C]]", "tie"),
    ("<think>a</think>[[A]]<think>or [[B]]", "unreadable"),
])
def test_reading_replies(reply: str, answer: str) -> None:
    assert read(reply, "ours") == answer


@pytest.mark.parametrize(("reply", "answer"), [
    ("A", "first"), ("B", "second"), ("Neutral", "tie"), ("neutral.", "tie"), ("NEUTRAL", "tie"), ('"A"', "first"),
    ("**B**\n", "second"), ("", "unreadable"), ("C", "unreadable"), ("Response A", "unreadable"), ("a", "unreadable"),
    ("A is better", "unreadable"), ("A or B", "unreadable"), ("[[A]]", "unreadable"), ("<think>A</think>B", "second"),
    ("<think>A", "unreadable"), ("Ａ", "first"),
])
def test_reading_replies_in_rpos_form(reply: str, answer: str) -> None:
    assert read(reply, "rpo") == answer


def test_a_judge_is_asked_in_rpos_form(tmp_path, key) -> None:
    def longer_of(prompt: str) -> str:
        lines = prompt.splitlines()
        first, second = (lines[lines.index(f"Response {letter}:") + 1] for letter in "AB")
        return "Neutral" if len(first) == len(second) else "A" if len(first) > len(second) else "B"

    with endpoint(longer_of) as (url, _):
        assert judged(url, tmp_path, prompt="rpo") == ["win", "loss", "tie", "tie"]
    with endpoint(lambda prompt: "[[A]]") as (url, _), pytest.raises(UserError, match="6 of 6 answers are none of A, B, Neutral"):
        judged(url, tmp_path, prompt="rpo")


@contextmanager
def saying(code: int, kind: str, data: bytes, **headers: str):
    """Serve one reply to every call. Yields (url, keys received)."""
    keys = []

    class Handler(Stub):
        def do_POST(self) -> None:
            self.body()
            keys.append(self.headers["Authorization"])
            self.send_response(code)
            for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

    with serving(Handler) as url:
        yield f"{url}/v1", keys


def answers(url: str) -> list[str]:
    config = settings(REMOTE, base_url=url, timeout_seconds=10.0, retries=0)
    return [answer for _, answer in get("openai").load(config, None, None).answers([Question("which?", None)])]


@pytest.mark.parametrize(("code", "kind", "data"), [
    (200, "text/html", b"<html><body>Welcome</body></html>"), (200, "application/json", b""), (200, "text/plain", b"A"),
    (200, "application/json", b"{ cut"), (200, "application/json", b"null"), (200, "application/json", b"[]"),
    (200, "application/json", b'"[[A]]"'), (200, "application/json", b'{"error": {"message": "no credit"}}'),
    (200, "application/json", b"\xff\xfe\x00"), (200, "text/event-stream", b"data: {}\n\n"),
    (404, "text/html", b"<html>\n<h1>Not here</h1>\n</html>"), (400, "application/json", b""),
    (400, "application/json", b"[1]"), (403, "application/json", b'{"error": null}'),
    (400, "application/json", b'{"error": "bad\nmodel"}'), (502, "text/html", b"x" * 100_000),
])
def test_what_is_no_chat_completion_is_one_line(code: int, kind: str, data: bytes, key) -> None:
    with saying(code, kind, data) as (url, _), pytest.raises(UserError, match="judge m at .*run the same command") as error:
        answers(url)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


@pytest.mark.parametrize(("choices", "answer"), [
    ([], "unreadable"), (None, "unreadable"), ([None], "unreadable"), ([{"message": None}], "unreadable"),
    ([{}], "unreadable"), ([{"message": {"content": None, "refusal": "no"}}], "unreadable"),
    ([{"message": {"content": [{"type": "text", "text": "[[A]]"}]}}], "first"),
    ([{"message": {"content": [{"type": "thinking", "thinking": "[[B]]"}, {"type": "text", "text": "[["},
                               {"type": "text", "text": "A]]"}]}}], "first"),
    ([{"message": {"content": {"text": "[[A]]"}}}], "first"), ([{"message": {"content": 3}}], "unreadable"),
    ([{"message": {"content": "[[A]]"}}, {"message": {"content": "[[B]]"}}], "first"),
])
def test_messages_of_any_shape(choices, answer: str, key) -> None:
    with saying(200, "application/json", json.dumps({"choices": choices}).encode()) as (url, _):
        assert answers(url) == [answer]


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_takes_the_key_nowhere(code: int, key) -> None:
    with saying(200, "application/json", b"{}") as (other, keys), \
            saying(code, "text/plain", b"", Location=f"{other}/chat/completions") as (url, _):
        with pytest.raises(UserError, match=f"sends the question on to {other}.*task.judge.base_url"):
            answers(url)
        assert not keys


def test_no_line_holds_the_key(key) -> None:
    body = b'{"error": {"message": "wrong key: not-a-key"}}'
    with saying(401, "application/json", body) as (url, _), pytest.raises(UserError) as error:
        answers(url)
    assert "not-a-key" not in str(error.value)


# what has not even the form of an address is refused by the settings
@pytest.mark.parametrize("url", ["http://127.0.0.1:1/v1", "http:" + "//[::1"])
def test_an_address_that_is_none_is_one_line(url: str, key) -> None:
    with pytest.raises(UserError, match="judge m at"):
        answers(url)


@pytest.mark.parametrize("name", ["schlüssel", "two\nlines"])
def test_a_key_that_no_header_holds_is_one_line(name: str, monkeypatch) -> None:
    monkeypatch.setenv(KEY, name)
    with saying(200, "application/json", b"{}") as (url, _), pytest.raises(UserError) as error:
        answers(url)
    assert "\n" not in str(error.value)
