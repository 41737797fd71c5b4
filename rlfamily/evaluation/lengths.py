"""Whether the prompts of a task leave room for responses, for one tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from rlfamily.errors import UserError
from rlfamily.evaluation.sampler import CHUNK
from rlfamily.examples import Demonstration, Example, held_out, read_demonstrations, read_examples
from rlfamily.models import policy, scratch
from rlfamily.models.tokens import encode_example
from rlfamily.place import Place
from rlfamily.rollout.collect import encode_completion, encode_prompt


def write_lengths(
    place: Place, data: Path, model: Path | None, rollout: int, evaluation: int, demonstration: int, prompts: int
) -> dict[str, Any]:
    """Measure every split into lengths.json. The limits bound prompt and response together, in tokens.

    `prompts` of the test split are evaluated; a base model trained here, `model` None, has a gate that draws from as
    many of the validation split. Raises UserError for a prompt that leaves no room (of those to learn from, which are
    left out one by one: when none does), and for too few test prompts.
    """
    tokenizer = policy.load_tokenizer(model) if model else scratch.tokenizer_of(data)
    test, train = list(held_out(data, prompts).values()), read_examples(data / "train.jsonl")
    validation = read_examples(data / "validation.jsonl")
    found = {
        "test": _prompts(place, tokenizer, test, "test", "max_tokens_evaluation", evaluation),
        "train": _prompts(place, tokenizer, train, "train", "max_tokens_rollout", rollout, may_lack=True),
        "validation": _prompts(place, tokenizer, validation if model else validation[:prompts], "validation",
                               "max_tokens_evaluation", None if model else evaluation),
        **{split: _demonstrations(tokenizer, read_demonstrations(data / f"{split}.jsonl"), demonstration)
           for split in ("demonstrations_train", "demonstrations_validation")},
    }
    (place.out / "lengths.json").write_text(json.dumps(found, indent=1, sort_keys=True))
    return found


def _prompts(
    place: Place, tokenizer: PreTrainedTokenizerBase, rows: list[Example], split: str, name: str, limit: int | None,
    may_lack: bool = False,
) -> dict[str, int | None]:
    """Raises UserError when a prompt is empty, or as long as `limit`; None: nothing is drawn from this split.

    A split that `may_lack` some is refused when all are that long; the others are counted.
    """
    lengths = _measured(rows, lambda row: len(encode_example(tokenizer, row)),
                        lambda done: place.progress(done, len(rows), split))
    longest = max(range(len(rows)), key=lambda index: lengths[index], default=0)
    if limit is not None and 0 in lengths:
        raise UserError(f"data: the prompt of {rows[lengths.index(0)].id} has no tokens: give every example a text, or "
                        "leave it out")
    over = sum(length >= limit for length in lengths) if limit is not None else 0
    if over and (over == len(rows) or not may_lack):
        raise UserError(f"task.{name}={limit}: {over} of {len(rows)} {split} prompts leave no room for a response "
                        f"(that of {rows[longest].id} has {lengths[longest]} tokens): raise it, or leave them out of "
                        "the data")
    left_out = {"left_out": over} if may_lack else {}
    return {"rows": len(rows), "longest_prompt": max(lengths, default=0), "limit": limit, **left_out}


def _measured(rows: list[Example], length: Callable[[Example], int], report: Callable[[int], None]) -> list[int]:
    lengths: list[int] = []
    for start in range(0, len(rows), CHUNK):
        report(start)
        lengths += map(length, rows[start:start + CHUNK])
    return lengths


def _demonstrations(tokenizer: PreTrainedTokenizerBase, rows: list[Demonstration], limit: int) -> dict[str, int]:
    """With how many lose their tail, and how many are left out because their prompt alone fills the limit."""
    prompts = [len(encode_prompt(tokenizer, row.prompt)) for row in rows]
    whole = [prompt + len(encode_completion(tokenizer, row.completion, limit + 1))
             for prompt, row in zip(prompts, rows, strict=True)]
    full = sum(prompt >= limit for prompt in prompts)
    if rows and full == len(rows):
        raise UserError(f"task.max_tokens_demonstration={limit}: the prompts of all {len(rows)} demonstrations leave "
                        f"no room for a completion (the shortest has {min(prompts)} tokens): raise it")
    return {"rows": len(rows), "longest_prompt": max(prompts, default=0), "limit": limit, "left_out": full,
            "cut": sum(length > limit for length in whole) - full}
