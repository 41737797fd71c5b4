"""Tiny models that vLLM takes (a head of 32: fewer it refuses on CPUs), and places for its engines."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

WORDS = [f"w{index}" for index in range(40)]
CPU = torch.device("cpu")


def finetuning(**changes: Any) -> Any:
    from rlfamily.config import build

    return build().model.model_copy(update=changes)


CHAT = "{% for message in messages %}user: {{ message['content'] }} {% endfor %}{% if add_generation_prompt %}answer: {% endif %}"


def save_policy(folder: Path, **changes: Any) -> Path:
    """A random Qwen2 with tied embeddings and its word-level tokenizer; `changes` are to its shape."""
    from rlfamily.models import scratch

    tokenizer = scratch.train_tokenizer([*WORDS, "A", "B", "C", "[[A]]", "[[B]]", "[[C]]"])
    tokenizer.chat_template = CHAT
    scratch.build_model(finetuning(**changes), tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def machine(work: Path, *overrides: str, **vllm: Any) -> Any:
    """A place that works in `work`, with these settings of vLLM on top of conf/hardware/cpu.yaml, or of `overrides`."""
    from rlfamily.config import build
    from rlfamily.place import alone

    work.mkdir(parents=True, exist_ok=True)
    hardware = build(overrides).hardware
    return replace(alone(Path(tempfile.mkdtemp()), hardware, vllm=hardware.vllm.model_dump() | vllm), work=work)


def perturb(policy: Any, scale: float) -> None:
    """Move every trainable weight, as an optimiser's step would."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in policy.trainable().values():
            weight += scale * torch.randn(weight.shape, generator=generator).to(weight.device)


def gap(policy: Any, prompts: list[list[int]], drawn: list[Any], params: Any) -> float:
    """The largest difference of a drawn token's log-prob from what transformers says of it, in nats."""
    from rlfamily.models.batching import Rows, pad

    copies = len(drawn) // len(prompts)
    rows = replace(pad(Rows([prompt for prompt in prompts for _ in range(copies)], [one.ids for one in drawn]),
                       policy.pad_id), min_new_tokens=params.min_new_tokens)
    with torch.no_grad():
        logp_NT = policy.evaluate(rows, params.temperature).logp_NT
    return max(abs(float(logp_T[index]) - logp)
               for logp_T, one in zip(logp_NT, drawn, strict=True) for index, logp in enumerate(one.logps))
