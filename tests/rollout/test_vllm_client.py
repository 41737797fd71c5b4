"""The client of a vLLM server against a stub: what is asked, failures that pass and that do not, what a log tells.

No vLLM is needed here; tests/vllm/test_vllm_server.py has the real server.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small import place
from stub import Stub, serving

from rlfamily.config import build
from rlfamily.errors import UserError
from rlfamily.rollout import Completion, SamplingParams

PARAMS = SamplingParams(False, 0.5, 8, min_new_tokens=1, top_k=3, top_p=0.9, repetition_penalty=1.2, stop_ids=(7,), logps=True)


@contextmanager
def stub(folder: Path, failures=(), root: str | None = None):
    """A server that repeats a prompt's first token; its first completions fail with the codes given."""
    requests, codes, lock = [], list(failures), threading.Lock()

    class Handler(Stub):
        def do_GET(self) -> None:
            self.answer(200, {"object": "list", "data": [
                {"id": "stub", "object": "model", "root": root or str(folder), "max_model_len": 64}]})

        def do_POST(self) -> None:
            body = self.body()
            with lock:
                requests.append((self.path, body))
                code = codes.pop(0) if codes and self.path == "/v1/completions" else 200
            if self.path != "/v1/completions":
                self.answer(404, {"error": {"message": "no such path"}})
            elif code != 200:
                self.answer(code, {"error": {"message": f"code {code}"}})
            else:
                choices = [{"index": k, "text": "", "finish_reason": "stop" if k else "length", "logprobs":
                            {"token_logprobs": [-0.5]}, "token_ids": [body["prompt"][0] + k]} for k in range(body["n"])]
                self.answer(200, {"id": "1", "object": "text_completion", "created": 0, "model": "stub",
                                  "choices": choices[::-1]})  # in no order

    with serving(Handler) as url:
        yield url, requests


def engine(url: str, folder: Path, work: Path, limit: int = 8, **vllm: Any) -> Any:
    from rlfamily.rollout.vllm_common import Start
    from rlfamily.rollout.vllm_server import VllmServerEngine

    settings = build().hardware.vllm.model_dump() | {"mode": "server", "server_url": url, "retries": 2} | vllm
    machine = place(work, vllm=settings)
    return VllmServerEngine(Start(folder, "fp32", limit, 0, False), (2,), None, machine)


def completions(requests: list[Any]) -> list[Any]:
    return [body for path, body in requests if path == "/v1/completions"]


def test_one_request_a_prompt_with_its_seed_and_its_room(tmp_path) -> None:
    with stub(tmp_path) as (url, requests):
        drawn = engine(url, tmp_path, tmp_path).generate([[10, 11], [20]], PARAMS, [5, 6], 2)
    assert drawn == [Completion([10], [-0.5], True), Completion([11], [-0.5], False),
                     Completion([20], [-0.5], True), Completion([21], [-0.5], False)]
    asked = sorted(completions(requests), key=lambda body: body["seed"])
    assert [(body["prompt"], body["seed"], body["max_tokens"], body["n"]) for body in asked] == [
        ([10, 11], 5, 6, 2), ([20], 6, 7, 2)]
    for body in asked:
        assert (body["temperature"], body["top_k"], body["top_p"], body["min_tokens"]) == (0.5, 3, 0.9, 1)
        assert body["repetition_penalty"] == 1.2
        assert body["stop_token_ids"] == [2, 7] and body["return_token_ids"] and body["logprobs"] == 0


def test_new_tokens_have_a_limit_of_their_own(tmp_path) -> None:
    with stub(tmp_path) as (url, requests):
        engine(url, tmp_path, tmp_path).generate([[10, 11, 12, 13], [20]], replace(PARAMS, max_new_tokens=5), [5, 6])
    assert {tuple(body["prompt"]): body["max_tokens"] for body in completions(requests)} == {(10, 11, 12, 13): 4, (20,): 5}


def test_passing_failures_are_tried_again(tmp_path) -> None:
    with stub(tmp_path, failures=[503, 503]) as (url, requests):
        assert len(engine(url, tmp_path, tmp_path).generate([[10]], PARAMS, [5])) == 1
    assert len(completions(requests)) == 3


def test_retries_have_a_limit_and_end_in_one_line(tmp_path) -> None:
    with stub(tmp_path, failures=[503] * 99) as (url, requests):
        with pytest.raises(UserError, match=r"failed 3 times \(.*503.*run the same command again") as failure:
            engine(url, tmp_path, tmp_path, rows=1).generate([[10]] * 5, PARAMS, [5] * 5)
        assert "\n" not in str(failure.value)
    assert len(completions(requests)) <= 6, "the others are not asked once one has failed"


def test_what_is_refused_is_not_tried_again(tmp_path) -> None:
    with stub(tmp_path, failures=[400] * 9) as (url, requests), \
            pytest.raises(UserError, match=r"refused: Error code: 400"):
        engine(url, tmp_path, tmp_path).generate([[10]], PARAMS, [5])
    assert len(completions(requests)) == 1


def test_nobody_there(tmp_path) -> None:
    with stub(tmp_path) as (url, _):
        pass
    with pytest.raises(UserError, match=r"at http://127.0.0.1:\d+ failed 2 times \(Connection error"):
        engine(url, tmp_path, tmp_path, retries=1)


def test_another_model_is_not_drawn_from(tmp_path) -> None:
    with stub(tmp_path, root="/somewhere/else") as (url, _), \
            pytest.raises(UserError, match=r"serves '/somewhere/else', wanted is .*: serve that one"):
        engine(url, tmp_path, tmp_path)
    with stub(tmp_path) as (url, _), pytest.raises(UserError, match="takes 64 tokens, wanted are 65"):
        engine(url, tmp_path, tmp_path, limit=65)


def test_a_servers_gpus_are_those_after_the_trainers(monkeypatch) -> None:
    from rlfamily.config import build
    from rlfamily.rollout.vllm_process import own_devices

    two = build(["hardware.vllm.tensor_parallel=2"]).hardware.vllm
    monkeypatch.setitem(os.environ, "CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert own_devices(1, two) == ["5", "6"]
    with pytest.raises(UserError, match="3 GPUs to train and 2 for the server, but the stage has 4"):
        own_devices(3, two)


def test_a_server_does_not_join_the_trainers_group(monkeypatch) -> None:
    from rlfamily.rollout.vllm_process import _environment

    for name in ("RANK", "WORLD_SIZE", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "RLFAMILY_SLOT", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "1")
    kept = _environment(["5", "6"])
    assert not {"RANK", "WORLD_SIZE", "MASTER_PORT", "TORCHELASTIC_RUN_ID"} & kept.keys()
    assert kept["RLFAMILY_SLOT"] == "1", "by this mark the reaper finds what a dead stage has left"
    assert kept["CUDA_VISIBLE_DEVICES"] == "5,6"


@pytest.mark.parametrize(("log", "error"), [
    ("(EngineCore pid=3) ERROR 11-21 [core.py:1] ValueError: No available memory for the cache blocks.\n"
     "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.\n",
     "ValueError: No available memory for the cache blocks."),
    ("(APIServer pid=1) pydantic_core.ValidationError: 1 validation error for ModelConfig\n"
     "(APIServer pid=1)   Value error, max_model_len (4096) is greater\n",
     "ValidationError: 1 validation error for ModelConfig Value error, max_model_len (4096) is greater"),
    ("WARNING 11-21 [launcher.py:1] could not raise the limit: OSError: too low\n", "")])
def test_what_a_log_tells(tmp_path, log, error) -> None:
    from rlfamily.rollout.vllm_process import last_error

    (tmp_path / "log").write_text(log)
    assert last_error(tmp_path / "log") == error
