"""Sizes below zero and shares above one are refused, wherever a shipped task has one."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from rlfamily import tasks

CONF = Path(__file__).resolve().parents[2] / "conf" / "task"


def numbers(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], float]]:
    """Every number of a mapping, with the way to it."""
    if isinstance(content, int | float) and not isinstance(content, bool):
        yield path, content
    for key, value in content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else []:
        yield from numbers(value, (*path, key))


def is_share(path: tuple[Any, ...]) -> bool:
    return "habits" in path or str(path[-1]).endswith("_fraction") or path[-1] == "tricky"


def changed(content: dict[str, Any], path: tuple[Any, ...], value: float) -> dict[str, Any]:
    made = copy.deepcopy(content)
    place: Any = made
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return made


@pytest.mark.parametrize("name", sorted(path.stem for path in CONF.glob("*.yaml")))
def test_every_number_of_a_source_has_its_bounds(name: str) -> None:
    content = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    config = tasks.get(content["kind"]).Config
    config.model_validate(content)
    found = [(path, value) for path, value in numbers(content) if path[0] == "source" or path == ("prompt_fraction",)]
    assert found
    accepted = []
    for path, value in found:
        for wrong in (-1, *([1.01] if is_share(path) else [])):
            try:
                config.model_validate(changed(content, path, type(value)(wrong) if wrong < 0 else wrong))
            except ValidationError:
                continue
            accepted.append((".".join(map(str, path)), wrong))
    assert not accepted
