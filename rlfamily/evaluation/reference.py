"""Log-probs of logged responses under the frozen reference policy, once for all runs that learn from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rlfamily.errors import UserError
from rlfamily.examples import Logged, read_logged
from rlfamily.models import Finetuning, logged, policy, sharding
from rlfamily.models.batching import Rows, pad
from rlfamily.models.logged import LoggedGroup, LoggedRows
from rlfamily.place import Place
from rlfamily.records import LEFT_OUT
from rlfamily.rollout.collect import encode_completion, encode_prompt

CHUNK = 64  # prompts between two progress notes
PART = 64  # chunks that a kill can cost
SPLITS = ("train", "validation")


def write_reference(place: Place, data: Path, model: Path, finetuning: Finetuning, max_tokens: int) -> dict[str, Any]:
    """Encode and evaluate every logged response, into <split>.safetensors.

    The summary has the mean and the spread of the training rewards, by which rewards are standardised, what they make
    of the validation rewards, and how many prompts have how many responses. A prompt that fills `max_tokens` by itself
    is left out and counted; a response beyond them loses its tail. Raises UserError where rewards are all the same.
    """
    learner = policy.load(model, finetuning, sharding.accelerator(place.hardware).device, trainable=False)
    left_out: Counter[str] = Counter()
    found = {split: _split(place, learner, data, split, max_tokens, left_out) for split in SPLITS}
    mean, std = found["train"].moments
    if not std > 0:
        raise UserError(f"data: all {len(found['train'].rewards_N)} logged rewards of the training split are {mean:g}: "
                        "nothing can be learned from them")
    validation_N = (found["validation"].rewards_N - mean) / std
    return {
        "reward_mean": mean, "reward_std": std, "validation_mean": float(validation_N.mean()),
        "validation_std": float(validation_N.std(correction=0)),
        **{f"{split}_rows": len(rows.rewards_N) for split, rows in found.items()},
        **{f"{split}_group_sizes": {str(size): count for size, count in sorted(Counter(rows.sizes).items())}
           for split, rows in found.items()},
        LEFT_OUT: dict(left_out),
    }


def _split(
    place: Place, learner: policy.Policy, data: Path, split: str, limit: int, left_out: Counter[str]
) -> LoggedRows:
    prompts = read_logged(data / f"logged_{split}.jsonl")
    encoded = [(one, encode_prompt(learner.tokenizer, one.prompt)) for one in prompts]
    kept = [(one, ids) for one, ids in encoded if len(ids) < limit]
    if not kept:
        raise UserError(f"task.max_tokens_demonstration={limit}: no prompt of logged_{split} leaves room for a "
                        "response: raise it")
    if len(kept) < len(prompts):
        left_out[f"{split} prompts of {limit} tokens or more"] = len(prompts) - len(kept)
    parts = []
    for number, start in enumerate(range(0, len(kept), CHUNK * PART)):
        path = place.work / f"{split}-{number}.safetensors"
        if not path.exists():
            logged.save(path, _part(place, learner, kept[start:start + CHUNK * PART], limit, (start, len(kept), split)))
        parts.append(path)
    return logged.join(parts, place.out / f"{split}.safetensors")


def _part(
    place: Place, learner: policy.Policy, prompts: Sequence[tuple[Logged, list[int]]], limit: int,
    done: tuple[int, int, str],
) -> list[LoggedGroup]:
    start, total, split = done
    groups: list[LoggedGroup] = []
    for first in range(0, len(prompts), CHUNK):
        place.progress(start + first, total, split)
        part = prompts[first:first + CHUNK]
        rows = [Rows([ids] * len(one.responses),
                     [encode_completion(learner.tokenizer, text, limit - len(ids)) for text in one.responses])
                for one, ids in part]
        logps = iter(_logps(learner, rows, place.hardware.micro_tokens))
        groups += [LoggedGroup(group, one.rewards, [next(logps) for _ in one.rewards])
                   for group, (one, _) in zip(rows, part, strict=True)]
    return groups


def _logps(learner: policy.Policy, groups: Sequence[Rows], micro_tokens: int) -> list[list[float]]:
    """Log-probs of every completion token, row by row."""
    rows = Rows([prompt for group in groups for prompt in group.prompts],
                [completion for group in groups for completion in group.completions])
    tensors = pad(rows, learner.pad_id)
    found: list[list[float]] = []
    with torch.no_grad():
        for span in learner.layout.cut(tensors, micro_tokens, 0, len(rows)):
            found += learner.evaluate(tensors[span], 1.0).leaves()["logp_NT"].tolist()
    return [logp[:len(ids)] for logp, ids in zip(found, rows.completions, strict=True)]
