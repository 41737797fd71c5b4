"""On-policy preference pairs, labelled by the task's reward."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlfamily.errors import UserError
from rlfamily.evaluation.sampler import CHUNK
from rlfamily.models import Finetuning, sharding
from rlfamily.place import Place
from rlfamily.records import write_jsonl
from rlfamily.rollout.collect import Group, collect, sampling_params, training_prompts
from rlfamily.rollout.engines import frozen
from rlfamily.rollout.rewarding import task_reward
from rlfamily.settings import Distribution
from rlfamily.streams import pairs_seed
from rlfamily.tasks import Lesson


def write_pairs(
    place: Place, data: Path, model: Path, models: Mapping[str, Path], lesson: Lesson, distribution: Distribution,
    finetuning: Finetuning, engine: str, seed: int,
) -> dict[str, Any]:
    """Draw two responses per prompt and keep the pairs that the task's reward orders, chosen first.

    Raises UserError when every pair is a tie.
    """
    assert lesson.reward is not None
    device = sharding.accelerator(place.hardware).device
    drawer, tokenizer = frozen(model, finetuning, device, engine, place, lesson.limits.max_tokens)
    examples = training_prompts(place, data, lesson, tokenizer, seed)
    reward = task_reward(place, lesson.task, lesson.reward, models, device)
    params = sampling_params("sample", distribution, lesson.limits)
    pairs: list[dict[str, Any]] = []
    for start in range(0, len(examples), CHUNK):
        place.progress(start, len(examples), "pairs")
        for group in collect(drawer, tokenizer, reward, examples[start:start + CHUNK], 2, params,
                             lambda example: pairs_seed(seed, example.id)):
            pairs += _ordered(group)
    if not pairs:
        raise UserError(f"pairs: all {len(examples)} pairs are ties, nothing to prefer: draw more prompts or start "
                        "from a better policy")
    write_jsonl(place.out / "pairs.jsonl", pairs)
    return {"prompts": len(examples), "pairs": len(pairs), "ties": len(examples) - len(pairs), **place.notes}


def _ordered(group: Group) -> list[dict[str, Any]]:
    first, second = (part.reward for part in group.parts)
    if first == second:
        return []
    chosen, rejected = (0, 1) if first > second else (1, 0)
    return [{"prompt": group.example.prompt, "chosen": group.texts[chosen], "rejected": group.texts[rejected],
             "prompt_ids": group.prompt_ids, "chosen_ids": group.completions[chosen].ids,
             "rejected_ids": group.completions[rejected].ids,
             "chosen_truncated": group.completions[chosen].truncated,
             "rejected_truncated": group.completions[rejected].truncated}]
