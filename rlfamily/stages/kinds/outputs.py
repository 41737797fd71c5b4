"""Outputs stage: responses that stand in a file, or are the task's own references, in the place of drawn ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlfamily.place import Place
from rlfamily.records import hash_file
from rlfamily.settings import Strict

VERSION = "1"
WRITES = {"responses.jsonl": "a response to a held-out prompt, as if it were a policy's greedy one"}
REFERENCES = "references"


class Config(Strict):
    """A file with what it holds (its BLAKE3 hash), or no file: the task's references; and to how many prompts."""

    path: str | None
    content: str | None
    prompts: int


@dataclass(frozen=True)
class Inputs:
    """The task's files."""

    data: Path


def config_of(responses: str, prompts: int) -> Config:
    """Of the setting `responses`; a file that was changed is another one."""
    if responses == REFERENCES:
        return Config(path=None, content=None, prompts=prompts)
    return Config(path=str(Path(responses).resolve()), content=hash_file(Path(responses)), prompts=prompts)


def run(place: Place, config: Config, inputs: Inputs) -> dict[str, Any]:
    """Raises UserError where a prompt has no response."""
    from rlfamily.evaluation.outputs import write_outputs

    return write_outputs(place, inputs.data, config.path, config.prompts)
