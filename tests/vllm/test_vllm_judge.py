"""The local judge read by vLLM: the same letters as by transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
from pydantic import TypeAdapter

from rlfamily.judges import JudgeConfig, Question, get

pytestmark = pytest.mark.vllm

SETTINGS = {"kind": "causal_lm", "prompt": "ours", "criterion": "better?", "prompt_file": None, "orders": 0,
            "max_unreadable": 0.0, "path": "judge", "revision": "main", "batch": 7}


def answers(engine: str, folder: Path, questions: list[Question], work: Path) -> dict[int, str]:
    from rlfamily.rollout.engines import open_chooser

    config = TypeAdapter(JudgeConfig).validate_python(SETTINGS | {"engine": engine})
    return dict(get("causal_lm").load(config, folder, tiny.CPU, open_chooser(tiny.machine(work))).answers(questions))


def test_the_same_letters_as_transformers(tmp_path) -> None:
    folder = tiny.save_policy(tmp_path / "model", architecture="llama", initializer_range=0.3)
    questions = [Question(" ".join(tiny.WORDS[start::step]), None) for start in range(8) for step in (1, 3, 7)]
    questions.append(Question("w1 " * 200, None))  # longer than the model
    read = answers("vllm", folder, questions, tmp_path)
    assert read == answers("torch", folder, questions, tmp_path)
    assert {"first", "second", "tie", "unreadable"} == set(read.values()), "a judge of one answer shows nothing"
