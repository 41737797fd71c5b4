"""Mean log-probs of demonstrations under a policy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from rlfamily.evaluation.sampler import CHUNK
from rlfamily.examples import read_demonstrations
from rlfamily.models import Finetuning, policy, sharding
from rlfamily.models.batching import Rows, pad
from rlfamily.place import Place
from rlfamily.records import write_jsonl
from rlfamily.rollout.collect import encode_completion, encode_prompt


def write_logprobs(place: Place, data: Path, model: Path, finetuning: Finetuning, max_tokens: int) -> dict[str, Any]:
    """Mean log-prob per completion token, and per token with the prompt included (its first token has none)."""
    learner = policy.load(model, finetuning, sharding.accelerator(place.hardware).device, trainable=False)
    rows = []
    for split in ("train", "validation"):
        demonstrations = read_demonstrations(data / f"demonstrations_{split}.jsonl")
        for start in range(0, len(demonstrations), CHUNK):
            place.progress(start, len(demonstrations), split)
            part = demonstrations[start:start + CHUNK]
            encoded = [_encoded(learner, row.prompt, row.completion, max_tokens) for row in part]
            rows += [{"split": split, "item": start + offset, **row}
                     for offset, row in enumerate(_mean_logps(learner, encoded, place.hardware.micro_batch))]
    write_jsonl(place.out / "logprobs.jsonl", rows)
    return {"examples": len(rows)}


def _encoded(learner: policy.Policy, prompt: str, completion: str, limit: int) -> tuple[list[int], list[int]]:
    prompt_ids = encode_prompt(learner.tokenizer, prompt)
    return prompt_ids, encode_completion(learner.tokenizer, completion, max(1, limit - len(prompt_ids)))


def _mean_logps(
    learner: policy.Policy, encoded: list[tuple[list[int], list[int]]], micro_batch: int
) -> Iterator[dict[str, Any]]:
    for start in range(0, len(encoded), micro_batch):
        part = encoded[start:start + micro_batch]
        rows = Rows([prompt[:1] for prompt, _ in part], [[*prompt[1:], *completion] for prompt, completion in part])
        with torch.no_grad():
            logp_NT = learner.evaluate(pad(rows, learner.pad_id), 1.0).leaves()["logp_NT"].double().cpu()
        for logp_T, (prompt, completion) in zip(logp_NT, part, strict=True):
            total = len(prompt) - 1 + len(completion)
            yield {"completion_logp": float(logp_T[len(prompt) - 1:total].mean()), "completion_tokens": len(completion),
                   "all_logp": float(logp_T[:total].mean()), "all_tokens": total}
