"""What tasks write and everything after them reads: prompts, and demonstrations to imitate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlfamily.records import read_jsonl


@dataclass(frozen=True)
class Example:
    """One prompt with what its checker needs (`meta`, plain JSON). `id` names its split and place."""

    id: str
    prompt: str
    meta: dict[str, Any]


@dataclass(frozen=True)
class Demonstration:
    """A prompt with a completion to imitate."""

    id: str
    prompt: str
    completion: str


def read_examples(path: Path) -> list[Example]:
    """Read an examples file written by a task's `build`."""
    return [Example(**row) for row in read_jsonl(path)]


def read_demonstrations(path: Path) -> list[Demonstration]:
    """Read a demonstrations file written by a task's `build`."""
    return [Demonstration(**row) for row in read_jsonl(path)]
