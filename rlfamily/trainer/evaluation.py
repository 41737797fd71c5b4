"""Jobs that use a policy without training it: held-out scores, preference pairs, log-probs of demonstrations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from rlfamily import tasks
from rlfamily.errors import UserError
from rlfamily.models import Finetuning, policy
from rlfamily.models.batching import Rows, pad
from rlfamily.records import write_jsonl
from rlfamily.rewards.verifiable import Verifiable
from rlfamily.rollout import SamplingParams, stream_seed
from rlfamily.rollout.collect import Group, collect, encode_completion, encode_prompt
from rlfamily.rollout.torch_engine import TorchEngine
from rlfamily.tasks import Example, read_demonstrations, read_examples
from rlfamily.trainer.jobs import Place, scaled, select_prompts

CHUNK = 64  # prompts between two progress notes


def write_scores(place: Place, data: Path, model: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Score the held-out puzzles: one greedy and `eval_draws` sampled responses each.

    Streams depend on the puzzle and the draw alone, so that all cells meet the same chance (paired comparison).
    """
    task = config["task"]
    examples = read_examples(data / "test.jsonl")[:task["eval_prompts"]]
    learner = _frozen(place, model, config["finetuning"])
    rows, tokens = [], 0
    for mode, draws in (("greedy", 1), ("sample", task["eval_draws"])):
        params = SamplingParams(mode == "greedy", task["eval_temperature"], task["max_tokens_rollout"])
        groups = _draw(place, learner, task, examples, draws, params,
                       lambda example, k: stream_seed("score", example.id, k))
        for item, group in enumerate(groups):
            rows += [{"mode": mode, "item": item, "draw": draw, **scored} for draw, scored in enumerate(_scored(group))]
            tokens += sum(len(completion.ids) for completion in group.completions)
    write_jsonl(place.out / "scores.jsonl", rows)
    return {"responses": len(rows), "tokens": tokens}


def valid_rate(place: Place, data: Path, model: Path, finetuning: Finetuning, task: dict[str, Any]) -> float:
    """Share of sampled responses to the validation puzzles that solve them."""
    examples = read_examples(data / "validation.jsonl")[:task["eval_prompts"]]
    learner = policy.load(model, finetuning, place.accelerator().device, trainable=False)
    params = SamplingParams(False, task["eval_temperature"], task["max_tokens_rollout"])
    groups = list(_draw(place, learner, task, examples, 1, params,
                        lambda example, k: stream_seed("gate", example.id, k)))
    return sum(group.parts[0].valid > 0 for group in groups) / len(groups)


def write_pairs(place: Place, data: Path, model: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Draw two responses per prompt and keep the pairs that the verifiable reward orders, chosen first.

    Raises UserError when every pair is a tie.
    """
    task, seed = config["task"], config["seed"]
    examples = select_prompts(data, scaled(config["prompts"], task["prompt_fraction"]), seed)
    learner = _frozen(place, model, config["finetuning"])
    params = SamplingParams(False, config["temperature"], task["max_tokens_rollout"])
    groups = _draw(place, learner, task, examples, 2, params,
                   lambda example, k: stream_seed(seed, "pairs", example.id, k))
    pairs = [pair for group in groups for pair in _ordered(group)]
    if not pairs:
        raise UserError(f"pairs: all {len(examples)} pairs are ties, nothing to prefer: draw more prompts or start "
                        "from a better policy")
    write_jsonl(place.out / "pairs.jsonl", pairs)
    return {"prompts": len(examples), "pairs": len(pairs), "ties": len(examples) - len(pairs)}


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


def _draw(
    place: Place, learner: policy.Policy, task: dict[str, Any], examples: Sequence[Example], draws: int,
    params: SamplingParams, seed_of: Callable[[Example, int], int],
) -> Iterator[Group]:
    engine = TorchEngine(learner, place.hardware["rollout_batch"])
    reward = Verifiable(tasks.get(task["kind"]))
    for start in range(0, len(examples), CHUNK):
        place.progress(start, len(examples), "greedy" if params.greedy else "sampled")
        yield from collect(engine, learner.tokenizer, reward, examples[start:start + CHUNK], draws, params, seed_of)


def _scored(group: Group) -> Iterator[dict[str, Any]]:
    for completion, text, part in zip(group.completions, group.texts, group.parts, strict=True):
        yield {"prompt": group.example.prompt, "response": text, "valid": int(part.valid > 0),
               "format": int(part.format > 0), "reward": part.reward, "length": len(completion.ids),
               "truncated": completion.truncated}


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
            logp_NT = learner.evaluate(pad(rows, learner.pad_id), 1.0).leaf.double().cpu()
        for logp_T, (prompt, completion) in zip(logp_NT, part, strict=True):
            total = len(prompt) - 1 + len(completion)
            yield {"completion_logp": float(logp_T[len(prompt) - 1:total].mean()), "completion_tokens": len(completion),
                   "all_logp": float(logp_T[:total].mean()), "all_tokens": total}
