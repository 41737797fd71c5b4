"""A real vLLM server, started as a stage starts it: the same responses as in process, weights handed over, bad ends."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from typing import Any

import psutil
import pytest
import tiny

from rlfamily.errors import UserError
from rlfamily.rollout import SamplingParams
from rlfamily.rollout.settings import Drawing

pytestmark = pytest.mark.vllm

SETTINGS = Drawing(engine="vllm", importance_cap=None)
LIMIT = 200
PROMPTS = [[5, 6, 7, 8], [9, 10, 11], [12, 13] * 75]  # the last fills a block of the prefix cache (128 on CPUs)
SAMPLED = SamplingParams(False, 0.7, LIMIT, min_new_tokens=2, logps=True)


def follow(folder: Any, work: Any, finetune: str, **vllm: Any) -> tuple[Any, Any]:
    """A policy in training and the engine that follows it."""
    from rlfamily.models import policy
    from rlfamily.rollout.engines import following

    trained = policy.load(folder, tiny.finetuning(finetune=finetune), tiny.CPU, trainable=True)
    return trained, following(trained, folder, SETTINGS, tiny.machine(work, mode="server", **vllm), LIMIT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    # Of a Qwen2 that has a word-level tokenizer the server's own AutoTokenizer makes a tokenizer without words.
    return tiny.save_policy(tmp_path_factory.mktemp("model"), architecture="llama", max_positions=256)


@pytest.fixture(scope="module")
def served(folder, tmp_path_factory):
    return follow(folder, tmp_path_factory.mktemp("full"), "full", retries=0)


@pytest.fixture(scope="module")
def adapted(folder, tmp_path_factory):
    return follow(folder, tmp_path_factory.mktemp("adapted"), "lora", retries=0)


@pytest.mark.parametrize("params", [
    SAMPLED, replace(SAMPLED, top_k=5, top_p=0.9, stop_ids=(15, 16)), replace(SAMPLED, greedy=True),
    replace(SAMPLED, repetition_penalty=1.3)], ids=["sampled", "cut", "greedy", "penalised"])
def test_the_same_responses_as_in_process(served, folder, tmp_path, params) -> None:
    from rlfamily.rollout.engines import frozen

    engine, _ = frozen(folder, tiny.finetuning(), tiny.CPU, "vllm", tiny.machine(tmp_path), LIMIT)
    inside = engine.generate(PROMPTS, params, [1, 2, 3], 4)
    outside = served[1].generate(PROMPTS, params, [1, 2, 3], 4)
    assert [(one.ids, one.truncated) for one in outside] == [(one.ids, one.truncated) for one in inside]
    assert len({tuple(one.ids) for one in outside}) > (1 if params.greedy else 6)
    for one, other in zip(outside, inside, strict=True):
        assert one.logps == pytest.approx(other.logps, abs=2e-4)
    assert not any(one.logps for one in served[1].generate(PROMPTS, replace(params, logps=False), [1, 2, 3]))


@pytest.mark.parametrize("how", ["served", "adapted"])
def test_weights_are_handed_over(how, request) -> None:
    policy, engine = request.getfixturevalue(how)
    for _ in range(2):  # the second version has a first one to take the place of
        tiny.perturb(policy, 0.05)
        old = engine.generate(PROMPTS, SAMPLED, [1, 2, 3], 4)
        assert tiny.gap(policy, PROMPTS, old, SAMPLED) > 0.05
        engine.refresh()
        new = engine.generate(PROMPTS, SAMPLED, [1, 2, 3], 4)
        assert tiny.gap(policy, PROMPTS, new, SAMPLED) < 2e-4
    assert len([path for path in engine.work.iterdir() if path.name != "vllm-server.log"]) == (how == "adapted")


def test_the_openai_judge_asks_it(served, tmp_path, monkeypatch) -> None:
    from rlfamily import judges
    from rlfamily.judges.openai import KEY

    monkeypatch.setenv(KEY, "any text")
    config = judges.OpenAiJudge(
        kind="openai", model="policy", base_url=f"{served[1].url}/v1", temperature=0.0, max_output_tokens=8, retries=0,
        timeout_seconds=60.0, parallel=2, price_input=0.0, price_output=0.0, prompt="ours", criterion="w1",
        prompt_file=None, orders=0, max_unreadable=1.0)
    judge = judges.get("openai").load(config, None, None)
    answers = dict(judge.answers([judges.Question("w1 w2 w3", None), judges.Question("w4", None)]))
    assert answers.keys() == {0, 1}
    assert set(answers.values()) <= {"first", "second", "tie", "unreadable"}


def test_a_server_of_the_users_own(served, folder, tmp_path) -> None:
    """Last of those that use `served`: another run takes its server away."""
    from rlfamily.rollout.engines import frozen

    url = served[1].url + "/v1/"
    machine = tiny.machine(tmp_path / "frozen", mode="server", server_url=url, retries=0)
    with pytest.raises(UserError, match=r"holds the weights of another run.*start it again"):
        frozen(folder, tiny.finetuning(), tiny.CPU, "vllm", machine, LIMIT)
    with pytest.raises(UserError, match=r"serves '.*', wanted is '.*other'"):
        frozen(tiny.save_policy(tmp_path / "other", architecture="llama", max_positions=256), tiny.finetuning(), tiny.CPU, "vllm", machine, LIMIT)
    with pytest.raises(UserError, match="takes 200 tokens, wanted are 201: start it with a larger --max-model-len"):
        frozen(folder, tiny.finetuning(), tiny.CPU, "vllm", machine, LIMIT + 1)
    policy, engine = follow(folder, tmp_path / "second", "full", server_url=url, retries=0)
    engine.refresh()
    assert tiny.gap(policy, PROMPTS, engine.generate(PROMPTS, SAMPLED, [1, 2, 3]), SAMPLED) < 2e-4
    served[1].refresh()
    with pytest.raises(UserError, match="give every run a server of its own"):
        engine.generate(PROMPTS, SAMPLED, [1, 2, 3])


def test_a_server_that_cannot_start_says_why(folder, tmp_path) -> None:
    from rlfamily.rollout.engines import frozen

    with pytest.raises(UserError, match="the model's context is shorter than task.max_tokens_rollout") as failure:
        frozen(folder, tiny.finetuning(), tiny.CPU, "vllm", tiny.machine(tmp_path, mode="server"), 4096)
    assert "\n" not in str(failure.value)


def test_a_server_killed_in_mid_run(adapted) -> None:
    """Last of those that use `adapted`."""
    from rlfamily.rollout.vllm_process import end

    child = adapted[1].child
    os.kill(child.process.pid, signal.SIGKILL)
    with pytest.raises(UserError, match=r"the vLLM server ended: code -9.*run the same command again") as failure:
        adapted[1].generate(PROMPTS, SAMPLED, [1, 2, 3], 4)
    assert "\n" not in str(failure.value)
    assert child.family
    end(child)
    psutil.wait_procs(child.family, 5)
    assert not [each for each in child.family if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
