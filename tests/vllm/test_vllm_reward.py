"""Reward models in vLLM: the same scores as transformers; a class that vLLM does not have is said, not hidden."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from published import save_bart

from rlfamily import rewards
from rlfamily.examples import Example
from rlfamily.rewards import preference

pytestmark = pytest.mark.vllm

TASK: Any = types.SimpleNamespace(score=lambda response, meta: {"gold": float(len(response))})
EXAMPLES = [Example(str(index), " ".join(tiny.WORDS[index:index + 5]), {}) for index in range(6)]
RESPONSES = [" ".join(tiny.WORDS[20:24 + index]) for index in range(6)]


def save_gpt2(folder: Path) -> Path:
    """A GPT-2 with two labels and heads of 32, with the words of `tiny`."""
    from published import save_gpt2 as save
    from transformers import GPT2Config, GPT2ForSequenceClassification

    save(folder)
    torch.manual_seed(0)
    GPT2ForSequenceClassification(GPT2Config(
        vocab_size=31, n_embd=64, n_layer=2, n_head=2, n_positions=64, num_labels=2, initializer_range=0.3,
        bos_token_id=0, eos_token_id=0)).save_pretrained(folder)
    return folder


def save_trained(folder: Path) -> Path:
    """A reward model as trained here, on a Qwen2; with a bias."""
    from rlfamily.models import reward_model

    base = tiny.save_policy(folder / "base", initializer_range=0.3)
    torch.manual_seed(0)
    model = reward_model.load(base, tiny.finetuning(), tiny.CPU, trainable=False)
    model.bias = 0.25
    model.save(folder / "trained")
    return folder / "trained"


def scored(engine: str, folders: dict[str, Path], work: Path, **components: Any) -> tuple[list[Any], dict[str, str]]:
    from rlfamily.rollout.engines import open_classifier

    notes: dict[str, str] = {}
    config = preference.Config.model_validate({
        "kind": "preference", "models": {}, "max_tokens": 64, "decimals": None,
        "components": {name: {"weight": 1.0, "convention": convention, "logit": logit, "engine": engine}
                       for name, (convention, logit) in components.items()}})
    vllm = rewards.ClassifierEngine(open_classifier(tiny.machine(work)), notes.__setitem__)
    return rewards.load(config.unsourced(), TASK.score, folders, tiny.CPU, 4, vllm).score(EXAMPLES, RESPONSES), notes


@pytest.mark.parametrize(("save", "convention", "logit"), [
    (save_trained, "ids", 0), (save_gpt2, "pair", 1), (save_gpt2, "response_bos_context", 0)])
def test_the_same_scores_as_transformers(tmp_path, save, convention, logit) -> None:
    folders = {"one": save(tmp_path)}
    got, notes = scored("vllm", folders, tmp_path, one=(convention, logit))
    expected, _ = scored("torch", folders, tmp_path, one=(convention, logit))
    values = [one.reward for one in expected]
    assert [one.reward for one in got] == pytest.approx(values, abs=1e-4)
    assert max(values) - min(values) > 0.01, "equal scores show nothing"
    assert not notes


def test_a_class_that_vllm_does_not_have_is_said(tmp_path) -> None:
    folders = {"detector": save_bart(tmp_path)}
    got, notes = scored("vllm", folders, tmp_path, detector=("response_then_context", 1))
    expected, _ = scored("torch", folders, tmp_path, detector=("response_then_context", 1))
    assert [one.reward for one in got] == pytest.approx([one.reward for one in expected], abs=1e-5)
    assert notes.keys() == {"detector"}
    assert "run by transformers, not by vllm" in notes["detector"] and "\n" not in notes["detector"]


def test_a_stage_tells_it_in_its_log_and_in_its_summary(tmp_path, capsys) -> None:
    from small import place

    from rlfamily.config import build
    from rlfamily.rollout.rewarding import task_reward

    here = place(tmp_path / "stage")
    reward = build(["task=tldr_tiny", "algorithm.warm_start=base"]).task.reward.unsourced().model_dump()
    reward["components"] = {"detector": {"weight": 1.0, "convention": "pair", "logit": 1, "engine": "vllm"}}
    config = rewards.get("preference").Config.model_validate(reward)
    save_bart(tmp_path / "bart" / "model")
    task_reward(here, "tldr", config, {"detector": tmp_path / "bart"}, tiny.CPU)
    assert "run by transformers, not by vllm: " in here.notes["reward_detector"]
    assert f"reward detector: {here.notes['reward_detector']}\n" in capsys.readouterr().err
