"""What value functions learn from: responses to training prompts with their rewards, drawn once for what they depend on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small import World, build_world, place

from rlfamily.decoding import best_of_n, plain
from rlfamily.evaluation.guides import GuideFolders
from rlfamily.evaluation.outcomes import write_outcomes
from rlfamily.records import read_jsonl
from rlfamily.rollout.settings import Generation, Guiding


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(tmp_path_factory.mktemp("world"))


def drawn(world: World, folder: Path, seed: int = 0, prompts: int = 6, decoder: Any = None, keep: str = "returned") -> Any:
    """Rows and summary; all stages below `folder` share a pool."""
    task = world.config.task
    reward = task.reward.unsourced()
    lesson = world.lesson(60).model_copy(update={"prompts": prompts, "reward": reward})
    generation = Generation(prompts=prompts, draws=2, greedy=False, limits=task.evaluation, distribution=task.distribution,
                            decoding=decoder or plain.Config(kind="plain"), engine="torch")
    config = SimpleNamespace(lesson=lesson, generation=generation, finetuning=world.finetuning,
                             guiding=Guiding(task=task.kind, reward=reward), keep=keep, seed=seed)
    here = place(folder)
    told = write_outcomes(here, world.data, world.base.parent, GuideFolders(), config, "1")
    return list(read_jsonl(here.out / "outcomes.jsonl")), told


def test_another_seed_draws_anew_whatever_was_drawn_before(world: World, tmp_path: Path) -> None:
    every = len(list(read_jsonl(world.data / "train.jsonl")))  # the same prompts for both seeds
    alone, _ = drawn(world, tmp_path / "alone", seed=1, prompts=every)
    first, _ = drawn(world, tmp_path / "shared", seed=0, prompts=every)
    after, told = drawn(world, tmp_path / "shared", seed=1, prompts=every)
    assert after == alone and told["drawn"] == len(after)
    assert sorted(row["ids"] for row in first) != sorted(row["ids"] for row in after)


def test_more_prompts_add_to_what_is_there(world: World, tmp_path: Path) -> None:
    few, _ = drawn(world, tmp_path / "pool", prompts=4)
    more, told = drawn(world, tmp_path / "pool", prompts=6)
    assert told["drawn"] == len(more) - len(few) == 4
    assert [row for row in more if row in few] == few


def test_finalists_are_kept_where_asked_for_alike_ones_once(world: World, tmp_path: Path) -> None:
    decoder = best_of_n.Config(kind="best_of_n", samples=3)
    returned, _ = drawn(world, tmp_path / "one", decoder=decoder)
    finalists, _ = drawn(world, tmp_path / "all", decoder=decoder, keep="finalists")
    assert len(returned) == 12 < len(finalists) <= 36
    best = {}
    for row in finalists:
        best[row["prompt"]] = max(best.get(row["prompt"], row["reward"]), row["reward"])
    assert all(row["reward"] <= best[row["prompt"]] for row in returned)
    assert {tuple(row["ids"]) for row in returned} <= {tuple(row["ids"]) for row in finalists}
