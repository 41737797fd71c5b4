"""Responses to training prompts with the reward of each: what value functions learn from (IRO, Alg. 3)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, Protocol

from rlfamily.evaluation.guides import GuideFolders
from rlfamily.evaluation.sampler import CHUNK, Prompts, Sampler
from rlfamily.examples import Example, read_examples
from rlfamily.models import Finetuning, sharding
from rlfamily.models.policy import load_tokenizer
from rlfamily.models.tokens import encode_example
from rlfamily.place import Place
from rlfamily.records import write_jsonl
from rlfamily.rollout.collect import decode, training_prompts
from rlfamily.rollout.rewarding import task_reward
from rlfamily.rollout.settings import Generation, Guiding
from rlfamily.streams import outcome_seed
from rlfamily.tasks import Lesson


class Settings(Protocol):
    """What the stage is configured with."""

    lesson: Lesson
    generation: Generation
    finetuning: Finetuning
    guiding: Guiding
    keep: Literal["returned", "finalists"]
    seed: int


def write_outcomes(
    place: Place, data: Path, policy: Path, folders: GuideFolders, settings: Settings, version: str
) -> dict[str, Any]:
    """`draws` responses to each training prompt with their rewards, into outcomes.jsonl.

    What the pool of samples has already is not drawn again: more prompts, or more samples, add to it.
    """
    begun, generation, lesson = time.monotonic(), settings.generation, settings.lesson
    tokenizer = load_tokenizer(policy / "model")
    chosen = training_prompts(place, data, lesson, tokenizer, settings.seed)
    places = {example.id: number for number, example in enumerate(read_examples(data / "train.jsonl"))}
    prompts = Prompts(data.name, f"train, seed {settings.seed}", {places[example.id]: example for example in chosen},
                      lambda example: outcome_seed(settings.seed, example.id))
    sampler = Sampler(place, policy / "model", settings.finetuning, generation, version, settings.guiding, folders,
                      finalists=settings.keep == "finalists")
    pool = sampler.pool(prompts)
    drawn = list(_kept(sampler.rows(prompts, "sample", generation.draws, pool), settings.keep))
    reward = task_reward(place, lesson.task, _reward(lesson), folders.rewards,
                         sharding.accelerator(place.hardware).device)
    rows: list[dict[str, Any]] = []
    for start in range(0, len(drawn), CHUNK):
        place.progress(start, len(drawn), "rewards")
        part = drawn[start:start + CHUNK]
        examples = [prompts.examples[row["item"]] for row in part]
        texts = decode(tokenizer, [row["ids"] for row in part])
        parts = reward.score(examples, texts, [row["truncated"] for row in part])
        rows += [_outcome(example, encode_example(tokenizer, example), row, text, one.reward)
                 for example, row, text, one in zip(examples, part, texts, parts, strict=True)]
    write_jsonl(place.out / "outcomes.jsonl", rows)
    return {"responses": len(rows), "drawn": pool.added, "mean_reward": fmean(row["reward"] for row in rows),
            "seconds_generate": time.monotonic() - begun, **place.notes}


def _reward(lesson: Lesson) -> Any:
    assert lesson.reward is not None
    return lesson.reward


def _kept(rows: Iterator[dict[str, Any]], keep: str) -> Iterator[dict[str, Any]]:
    """The responses themselves, or all that they were chosen from, those that are alike once."""
    for row in rows:
        if keep == "returned":
            yield row
        else:
            for ids in dict.fromkeys(tuple(one["ids"]) for one in row["finalists"]):
                other = next(one for one in row["finalists"] if tuple(one["ids"]) == ids)
                yield {"item": row["item"], **other}


def _outcome(
    example: Example, prompt_ids: list[int], row: dict[str, Any], text: str, reward: float
) -> dict[str, Any]:
    chat = {"messages": example.meta["messages"]} if example.meta.get("messages") else {}
    return {"prompt": example.prompt, **chat, "prompt_ids": prompt_ids, "ids": row["ids"], "response": text,
            "truncated": row["truncated"], "reward": reward}
