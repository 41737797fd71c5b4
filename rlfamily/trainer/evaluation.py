"""Jobs that use a policy without training it: held-out scores, preference pairs, log-probs of demonstrations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from rlfamily import tasks
from rlfamily.errors import UserError, nearest
from rlfamily.examples import Example, read_demonstrations, read_examples
from rlfamily.models import Finetuning, policy
from rlfamily.models.batching import Rows, pad
from rlfamily.records import write_jsonl
from rlfamily.rewards import Reward, RewardParts
from rlfamily.rollout import Engine, SamplingParams
from rlfamily.rollout.collect import Group, collect, encode_completion, encode_prompt
from rlfamily.rollout.engines import frozen
from rlfamily.streams import gate_seed, held_out_seed, pairs_seed
from rlfamily.tasks import Task
from rlfamily.trainer.jobs import Place, sampling_params, scaled, select_prompts, task_reward

CHUNK = 64  # prompts between two progress notes


def write_scores(
    place: Place, data: Path, model: Path, models: Mapping[str, Path], config: dict[str, Any]
) -> dict[str, Any]:
    """Score the held-out prompts with the task's reward: one greedy and `eval_draws` sampled responses each.

    Streams depend on the prompt and the draw alone, so that all cells meet the same chance (paired comparison).
    """
    task = config["task"]
    examples = read_examples(data / "test.jsonl")[:task["eval_prompts"]]
    sampler = Sampler.of(place, model, config, "max_tokens_evaluation")
    reward = task_reward(place, task, models, sampler.device)
    rows, tokens = [], 0
    for mode, draws in (("greedy", 1), ("sample", task["eval_draws"])):
        groups = sampler.draw(examples, draws, evaluation_params(task, mode), reward,
                             lambda example: held_out_seed(example.id))
        for item, group in enumerate(groups):
            rows += [{"mode": mode, "item": item, "draw": draw, **scored} for draw, scored in enumerate(_scored(group))]
            tokens += sum(len(completion.ids) for completion in group.completions)
    write_jsonl(place.out / "scores.jsonl", rows)
    return {"responses": len(rows), "tokens": tokens, **place.notes}


def gate_value(place: Place, data: Path, model: Path, finetuning: Finetuning, task: dict[str, Any]) -> float:
    """Mean of the gate's part of the task's own score, over one sampled response to each validation prompt.

    Raises UserError when the task's score has no such part.
    """
    examples = read_examples(data / "validation.jsonl")[:task["eval_prompts"]]
    settings = finetuning.model_dump(include=set(Finetuning.model_fields))  # a model to be built has more
    config = {"finetuning": settings, "task": task, "engine": "torch"}  # one base model, whatever draws later
    sampler = Sampler.of(place, model, config, "max_tokens_evaluation")
    groups = sampler.draw(examples, 1, evaluation_params(task, "sample"), Parts(tasks.get(task["kind"])),
                         lambda example: gate_seed(example.id))
    scores, part = [group.parts[0].parts for group in groups], task["pretrain"]["gate"]["part"]
    if part not in scores[0]:
        raise UserError(f"task.pretrain.gate.part: the task's score has no '{part}'{nearest(part, scores[0])}")
    return fmean(score[part] for score in scores)


@dataclass(frozen=True)
class Parts:
    """The task's own score as parts of a reward that is always 0: for gates, which look at parts only."""

    task: Task

    def score(self, examples: Sequence[Example], responses: Sequence[str]) -> list[RewardParts]:
        """Score response n as an answer to example n."""
        return [RewardParts(0.0, self.task.score(response, example.meta))
                for example, response in zip(examples, responses, strict=True)]


def write_pairs(
    place: Place, data: Path, model: Path, models: Mapping[str, Path], config: dict[str, Any]
) -> dict[str, Any]:
    """Draw two responses per prompt and keep the pairs that the task's reward orders, chosen first.

    Raises UserError when every pair is a tie.
    """
    task, seed = config["task"], config["seed"]
    examples = select_prompts(data, scaled(config["prompts"], task["prompt_fraction"]), seed, task["reuse_prompts"])
    sampler = Sampler.of(place, model, config, "max_tokens_rollout")
    reward = task_reward(place, task, models, sampler.device)
    params = replace(sampling_params(task, "sample", "max_tokens_rollout"), temperature=config["temperature"])
    groups = sampler.draw(examples, 2, params, reward, lambda example: pairs_seed(seed, example.id))
    pairs = [pair for group in groups for pair in _ordered(group)]
    if not pairs:
        raise UserError(f"pairs: all {len(examples)} pairs are ties, nothing to prefer: draw more prompts or start "
                        "from a better policy")
    write_jsonl(place.out / "pairs.jsonl", pairs)
    return {"prompts": len(examples), "pairs": len(pairs), "ties": len(examples) - len(pairs), **place.notes}


def write_logprobs(place: Place, data: Path, model: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Mean log-prob per completion token, and per token with the prompt included (its first token has none)."""
    learner = _frozen(place, model, config["finetuning"])
    limit, rows = config["task"]["max_tokens_demonstration"], []
    for split in ("train", "validation"):
        demonstrations = read_demonstrations(data / f"demonstrations_{split}.jsonl")
        for start in range(0, len(demonstrations), CHUNK):
            place.progress(start, len(demonstrations), split)
            part = demonstrations[start:start + CHUNK]
            encoded = [_encoded(learner, row.prompt, row.completion, limit) for row in part]
            rows += [{"split": split, "item": start + offset, **row}
                     for offset, row in enumerate(_mean_logps(learner, encoded, place.hardware["micro_batch"]))]
    write_jsonl(place.out / "logprobs.jsonl", rows)
    return {"examples": len(rows)}


def _frozen(place: Place, model: Path, finetuning: dict[str, Any]) -> policy.Policy:
    return policy.load(model, Finetuning.model_validate(finetuning), place.accelerator().device, trainable=False)


def evaluation_params(task: dict[str, Any], mode: str) -> SamplingParams:
    """How held-out responses are drawn; `mode` is sample or greedy."""
    return replace(sampling_params(task, mode, "max_tokens_evaluation"), temperature=task["eval_temperature"],
                   top_k=task["eval_top_k"], top_p=task["eval_top_p"])


@dataclass(frozen=True)
class Sampler:
    """A finished policy that draws: its engine, its tokenizer, and the device that rewards run on."""

    place: Place
    engine: Engine
    tokenizer: PreTrainedTokenizerBase
    device: torch.device

    @classmethod
    def of(cls, place: Place, model: Path, config: dict[str, Any], limit: str) -> Sampler:
        """The policy in folder `model`; `config` holds task, finetuning and engine, `limit` is the task's key."""
        device = place.accelerator().device
        engine, tokenizer = frozen(model, Finetuning.model_validate(config["finetuning"]), device, config["engine"],
                                   place.machine(), config["task"][limit])
        return cls(place, engine, tokenizer, device)

    def draw(
        self, examples: Sequence[Example], draws: int, params: SamplingParams, reward: Reward,
        seed_of: Callable[[Example], int],
    ) -> Iterator[Group]:
        """`draws` responses to each example, with progress."""
        for start in range(0, len(examples), CHUNK):
            self.place.progress(start, len(examples), "greedy" if params.greedy else "sampled")
            yield from collect(self.engine, self.tokenizer, reward, examples[start:start + CHUNK], draws, params,
                               seed_of)


def _scored(group: Group) -> Iterator[dict[str, Any]]:
    benchmark = {"benchmark": group.example.meta["benchmark"]} if "benchmark" in group.example.meta else {}
    for completion, text, part in zip(group.completions, group.texts, group.parts, strict=True):
        yield {**part.parts, **benchmark, "prompt": group.example.prompt, "response": text, "reward": part.reward,
               "length": len(completion.ids), "truncated": completion.truncated}


def _ordered(group: Group) -> list[dict[str, Any]]:
    first, second = (part.reward for part in group.parts)
    if first == second:
        return []
    chosen, rejected = (0, 1) if first > second else (1, 0)
    return [{"prompt": group.example.prompt, "chosen": group.texts[chosen], "rejected": group.texts[rejected],
             "prompt_ids": group.prompt_ids, "chosen_ids": group.completions[chosen].ids,
             "rejected_ids": group.completions[rejected].ids}]


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
