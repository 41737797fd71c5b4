"""What a number of a shipped task may be: sizes below zero and shares above one are refused, the edges are not."""

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


FROM_ZERO = {"seed", "min_new_tokens", "eval_top_k", "eval_no_repeat_ngram", "min_characters", "length_bias", "noise"}
ANY = {"reference_reward"}  # whatever a data set's scale is
FROM_ZERO_IN = {"groups", "mixture"}  # weights
LEAST = {"numbers": 2}  # of whole numbers; of all others 1
ABOVE_ZERO = {"prompt_fraction", "eval_top_p", "keep", "test_fraction"}  # shares that may not be none
BELOW_ONE = {"plain_fraction", "test_fraction"}  # shares that may not be all
SHARES = {"eval_top_p", "keep", "repeat", "shuffle", "repeats"}


def is_share(path: tuple[Any, ...]) -> bool:
    return "habits" in path or "reference" in path or str(path[-1]).endswith("_fraction") or path[-1] == "tricky"


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
    found = [(path, value) for path, value in numbers(content)
             if (path[0] == "source" or path == ("prompt_fraction",)) and path[-1] not in ANY]
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


def beyond(config: Any, content: dict[str, Any], path: tuple[Any, ...], value: float) -> bool:
    """Whether a number is refused by itself, and not because others do not go with it."""
    try:
        config.model_validate(changed(content, path, value))
    except ValidationError as error:
        return any(one["type"].startswith(("greater_than", "less_than")) for one in error.errors())
    return False


@pytest.mark.parametrize("name", sorted(path.stem for path in CONF.glob("*.yaml")))
def test_a_number_is_refused_beyond_its_edge_and_not_before(name: str) -> None:
    content = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    config = tasks.get(content["kind"]).Config
    wrong = []
    for path, value in numbers(content):
        key = str(path[-1])
        if (path[0] != "source" and len(path) > 1) or key in ANY:
            continue
        if is_share(path) or key in SHARES:
            low, high = (1e-6 if key in ABOVE_ZERO else 0.0), (1 - 1e-6 if key in BELOW_ONE else 1.0)
            inside, outside = [low, high], [low - 1e-6, high + 1e-6]
        elif isinstance(value, int):
            least = 0 if key in FROM_ZERO else LEAST.get(key, 1)
            inside, outside = [least], [least - 1]
        else:
            from_zero = key in FROM_ZERO or FROM_ZERO_IN & set(path)
            inside, outside = ([0.0], [-1e-6]) if from_zero else ([1e-6], [0.0])
        wrong += [(path, one) for one in inside if beyond(config, content, path, one)]
        wrong += [(path, one) for one in outside if not beyond(config, content, path, one)]
    assert not wrong


def tiny(**changes: Any) -> Any:
    content = yaml.safe_load((CONF / "countdown_tiny.yaml").read_text())
    return tasks.get("countdown").Config.model_validate(content | changes)


@pytest.mark.parametrize(("right", "wrong", "message"), [
    ({"max_tokens_rollout": 40, "min_new_tokens": 40}, {"max_tokens_rollout": 40, "min_new_tokens": 41},
     "min_new_tokens=41 is above max_tokens_rollout=40"),
    ({"max_new_tokens_evaluation": 9, "min_new_tokens": 9}, {"max_new_tokens_evaluation": 9, "min_new_tokens": 10},
     "min_new_tokens=10 is above max_new_tokens_evaluation=9"),
    ({"max_tokens_rollout": 40, "max_new_tokens_rollout": 39}, {"max_tokens_rollout": 40, "max_new_tokens_rollout": 40},
     "max_tokens_rollout=40 leaves no room for a prompt beside max_new_tokens_rollout=40"),
])
def test_lengths_go_together(right: dict[str, int], wrong: dict[str, int], message: str) -> None:
    assert tiny(**right)
    with pytest.raises(ValidationError, match=message):
        tiny(**wrong)


def test_as_many_prompts_as_there_are_can_be_evaluated_on() -> None:
    there = tiny().test_prompts
    assert tiny(eval_prompts=there)
    with pytest.raises(ValidationError, match=f"the test split has {there} prompts"):
        tiny(eval_prompts=there + 1)


@pytest.mark.parametrize(("fraction", "asked", "taken"), [(1.0, 7, 7), (0.3, 10, 3), (0.3, 9, 3), (0.01, 10, 1)])
def test_a_task_takes_its_fraction_of_the_prompts_and_one_at_least(fraction: float, asked: int, taken: int) -> None:
    task = tiny(prompt_fraction=fraction)
    assert task.lesson(asked, task.rollout, rewarded=False).prompts == taken


def test_a_reward_needs_what_its_task_gives() -> None:
    content = yaml.safe_load((CONF / "tldr_tiny.yaml").read_text())
    with pytest.raises(ValidationError, match="reward.kind=verifiable needs format, valid of each response or prompt"):
        tasks.get("tldr").Config.model_validate(content | {"reward": {"kind": "verifiable", "models": {}}})
