"""Responses of others to the held-out prompts: the task's references, or a file as alpaca_eval writes them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rlfamily.errors import UserError
from rlfamily.examples import Example, held_out
from rlfamily.metrics import NEEDED
from rlfamily.place import Place
from rlfamily.records import write_jsonl
from rlfamily.tasks.support import outputs


def write_outputs(place: Place, data: Path, path: str | None, prompts: int) -> dict[str, Any]:
    """A line of responses.jsonl for each held-out prompt; `path` null: its reference. Raises UserError for none."""
    examples = held_out(data, prompts)
    found, names = _references(examples.values()) if path is None else _of_file(Path(path), examples.values())
    write_jsonl(place.out / "responses.jsonl", (
        {"mode": "greedy", "item": item, "draw": 0, "prompt": example.prompt, "response": response, "truncated": False}
        for (item, example), response in zip(examples.items(), found, strict=True)))
    return {"responses": len(found), "generators": names}


def _references(examples: Iterable[Example]) -> tuple[list[str], list[str]]:
    examples = list(examples)
    lacking = [example.prompt for example in examples if NEEDED not in example.meta]
    if lacking:
        raise UserError(f"responses=references: the task has no reference to {len(lacking)} of its held-out prompts: "
                        "name a file of outputs")
    return [example.meta[NEEDED] for example in examples], sorted(
        {str(example.meta.get("generator", "reference of the task")) for example in examples})


def _of_file(path: Path, examples: Iterable[Example]) -> tuple[list[str], list[str]]:
    """Outputs by instruction; of an instruction that is there twice, the first for the first."""
    by_instruction: defaultdict[str, list[outputs.Output]] = defaultdict(list)
    for one in outputs.read(path, "responses"):
        by_instruction[one.instruction.strip()].append(one)
    lacking, chosen = [], []
    for example in examples:
        there = by_instruction[example.prompt.strip()]
        if there:
            chosen.append(there.pop(0) if len(there) > 1 else there[0])
        else:
            lacking.append(example.prompt)
    if lacking:
        raise UserError(f"responses: '{path}' has no output to {len(lacking)} of {len(lacking) + len(chosen)} held-out "
                        f"prompts (the first: {' '.join(lacking[0].split())[:60]!r}): give it one for each instruction "
                        "of the task")
    return [one.output for one in chosen], sorted({one.generator for one in chosen})
