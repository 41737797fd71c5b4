"""The pool of samples: nothing is drawn twice, and what is drawn later equals what would have been drawn at once."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small import World, build_world, place

from rlfamily.decoding import plain
from rlfamily.evaluation import generate, sampler
from rlfamily.evaluation.pool import Pool
from rlfamily.records import read_jsonl
from rlfamily.rollout.settings import Generation
from rlfamily.rollout.torch_engine import TorchEngine
from rlfamily.streams import held_out_seed


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(tmp_path_factory.mktemp("world"))


def settings(world: World, draws: int, **changes: Any) -> Generation:
    task = world.config.task
    made = Generation(prompts=6, draws=draws, greedy=True, limits=task.evaluation, distribution=task.distribution,
                      decoding=world.config.decoding, engine="torch")
    return made.model_copy(update=changes)


def drawn(world: World, folder: Path, draws: int, version: str = "1", **changes: Any) -> tuple[list[dict[str, Any]], int]:
    """Rows of responses.jsonl and how many were drawn now; the pool is below `folder` and shared by all calls."""
    here = place(folder)
    summary = generate.write_responses(here, world.data, world.base.parent, world.finetuning,
                                       settings(world, draws, **changes), version)
    return list(read_jsonl(here.out / "responses.jsonl")), summary["drawn"]


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("samples/*/*.jsonl"))


def test_asking_for_more_draws_only_what_is_missing(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, first = drawn(world, tmp_path, 2)
    asked: list[tuple[list[int], int]] = []
    monkeypatch.setattr(TorchEngine, "generate", spy(asked))
    rows, more = drawn(world, tmp_path, 5)
    assert (first, more) == (6 * (1 + 2), 6 * 3)
    ids = [json.loads(line)["id"] for line in (world.data / "test.jsonl").read_text().splitlines()[:6]]
    assert asked == [([held_out_seed(name) + 2 for name in ids], 3)]
    assert drawn(world, tmp_path, 5)[1] == drawn(world, tmp_path, 1)[1] == 0
    assert rows == drawn(world, tmp_path / "at once", 5)[0]


def test_what_is_there_needs_no_policy(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = drawn(world, tmp_path, 3)
    monkeypatch.setattr(sampler, "frozen", None)
    assert drawn(world, tmp_path, 2)[0] == [row for row in rows if row["draw"] < 2]


def spy(asked: list[tuple[list[int], int]]) -> Any:
    generate = TorchEngine.generate

    def counted(engine: Any, prompts: Any, params: Any, seeds: Any, copies: int) -> Any:
        asked.append((list(seeds), copies))
        return generate(engine, prompts, params, seeds, copies)

    return counted


def test_a_row_has_what_it_cost(world: World, tmp_path: Path) -> None:
    rows, _ = drawn(world, tmp_path, 2)
    assert [row["mode"] for row in rows] == ["greedy"] * 6 + ["sample"] * 12
    for row in rows:
        assert row["cost_tokens"] == row["cost_forwards"] == len(row["ids"])
        assert row["cost_value_queries"] == row["cost_reward_queries"] == 0


@pytest.mark.parametrize("changes", [
    {"version": "2"}, {"distribution": {"temperature": 0.5, "top_k": 0, "top_p": 1.0,
                                          "repetition_penalty": 1.0, "no_repeat_ngram": 0}},
    {"limits": {"max_tokens": 40, "max_new_tokens": None, "min_new_tokens": 0}}])
def test_what_is_drawn_otherwise_has_a_pool_of_its_own(world: World, tmp_path: Path, changes: dict[str, Any]) -> None:
    drawn(world, tmp_path, 1)
    typed = {name: getattr(settings(world, 1), name).model_validate(value) if name != "version" else value
             for name, value in changes.items()}
    assert drawn(world, tmp_path, 1, **typed)[1] == 12
    assert len(files(tmp_path)) == 2


def test_another_policy_has_a_pool_of_its_own(world: World, tmp_path: Path) -> None:
    drawn(world, tmp_path, 1)
    other = tmp_path / "other policy"
    other.mkdir()
    (other / "model").symlink_to(world.base)
    copied = SimpleNamespace(data=world.data, base=other / "model", finetuning=world.finetuning, config=world.config)
    assert drawn(copied, tmp_path, 1)[1] == 12  # type: ignore[arg-type]


def test_a_decoder_of_another_version_has_a_pool_of_its_own(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn(world, tmp_path, 1)
    monkeypatch.setattr(plain, "VERSION", "next")
    assert drawn(world, tmp_path, 1)[1] == 12


@pytest.mark.parametrize("damage", ["cut", "garbage"])
def test_a_torn_line_is_drawn_again(world: World, tmp_path: Path, damage: str) -> None:
    whole, _ = drawn(world, tmp_path, 2)
    (path,) = files(tmp_path)
    text = path.read_text()
    path.write_text(text[:-20] if damage == "cut" else text.rstrip("\n").rpartition("\n")[0] + "\nnot a row\n")
    rows, again = drawn(world, tmp_path, 2)
    assert rows == whole and again == 1
    assert drawn(world, tmp_path, 2)[1] == 0


def test_a_pool_of_nothing_has_no_draws(tmp_path: Path) -> None:
    pool = Pool(tmp_path / "none.jsonl")
    assert not pool.has("greedy", 0, 0)
    with pytest.raises(KeyError):
        pool.row("greedy", 0, 0)
