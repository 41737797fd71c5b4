"""Laws of every rule of prompts and groups, and that a run with one resumes to the same bytes."""

from __future__ import annotations

import importlib
import multiprocessing
import signal
import typing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlfamily import curricula
from rlfamily.config import build
from rlfamily.curricula import Prompts, in_order, varied
from rlfamily.errors import UserError
from rlfamily.examples import Example
from rlfamily.records import read_jsonl
from rlfamily.rewards import RewardParts
from rlfamily.rollout import Completion
from rlfamily.rollout.collect import Group
from rlfamily.streams import epoch_slice
from rlfamily.trainer.sources import RolloutSource


@pytest.mark.parametrize("kind", curricula.names())
def test_every_rule_says_what_it_is(kind: str) -> None:
    module = importlib.import_module(f"rlfamily.curricula.{kind}")
    assert module.__doc__ and isinstance(module.VERSION, str)
    assert typing.get_args(module.Config.model_fields["kind"].annotation) == (kind,)


@pytest.mark.parametrize("change", ["group_size=1", "sampling.mode=greedy"])
def test_a_rule_that_compares_needs_responses_that_may_differ(change: str) -> None:
    with pytest.raises(UserError, match="curriculum.kind=varied compares the responses of a group"):
        build(["algorithm=topr", "algorithm.baseline=none", "algorithm.curriculum={kind: varied, rounds: 1}", f"algorithm.{change}"])


@given(st.integers(1, 30), st.integers(1, 9), st.integers(0, 3), st.integers(0, 40))
def test_in_order_is_the_pass_of_the_step(count: int, batch: int, seed: int, step: int) -> None:
    prompts = Prompts(count, batch, seed)
    rule = in_order.start(in_order.Config(kind="in_order"), prompts)
    expected = epoch_slice(count, batch, step, prompts.steps_per_epoch, seed)
    assert rule.select(step, 0, 0) == [(step // prompts.steps_per_epoch, place) for place in expected]
    assert rule.select(step, 1, 3) == [] and rule.keep([[1.0, 1.0]]) == [True]


def source_of(count: int, batch: int, rounds: int, dull: set[int], drawn: list[Any]) -> RolloutSource:
    """Groups of two; those of `dull` prompts have equal rewards. `drawn` notes every call."""
    def collect(examples: list[Example], epoch: int, clock: Any) -> list[Group]:
        drawn.append((epoch, [int(example.id) for example in examples]))
        return [Group(example, [1], [Completion([2], [], False)] * 2, ["a", "b"],
                      [RewardParts(0.0, {}), RewardParts(float(int(example.id) not in dull), {})]) for example in examples]

    prompts = Prompts(count, batch, 0)
    rule = varied.start(varied.Config(kind="varied", rounds=rounds), prompts)
    return RolloutSource([Example(str(n), f"prompt {n}", {}) for n in range(count)], lambda: None, collect, prompts,
                         rule, 2, 1, True)


@given(st.integers(1, 20), st.integers(1, 6), st.integers(0, 3), st.data())
def test_varied_learns_from_groups_that_differ_and_never_from_nothing(count: int, batch: int, rounds: int, data: Any) -> None:
    dull = data.draw(st.sets(st.integers(0, count - 1)))
    drawn: list[Any] = []
    source = source_of(count, batch, rounds, dull, drawn)
    for step in range(source.total_steps):
        drawn.clear()
        got = source.batch(step, SimpleNamespace())
        groups = [int(text.split()[1]) for text in got.prompt_texts[::2]]
        planned = min(batch, count - step * batch)
        assert 1 <= len(groups) <= planned and len(drawn) >= 1
        turns = sum(len(ids) for _, ids in drawn)
        assert turns <= planned * (rounds + 1)
        if got.kept == 0.0:
            assert set(groups) <= dull and len(groups) == planned  # nothing differed: the first draw, whole
        else:
            assert not set(groups) & dull and got.kept == len(groups) / turns


def test_prompts_come_in_the_order_of_the_data_pass_after_pass() -> None:
    drawn: list[Any] = []
    source = source_of(5, 2, 1, {0, 1, 2, 3, 4}, drawn)  # nothing varies: every step draws twice
    for step in range(source.total_steps):
        source.batch(step, SimpleNamespace())
    order = [(turned, place) for turned, ids in drawn for place in ids]
    passes = [[place for turned, place in order if turned == one] for one in (0, 1)]
    assert len(order) == 2 * (2 + 2 + 1) and sorted(passes[0]) == sorted(passes[1]) == [0, 1, 2, 3, 4]
    assert passes[0] != passes[1]  # a pass of its own order, and with it streams of its own


def test_a_source_that_is_restored_goes_on_where_it_was() -> None:
    straight: list[Any] = []
    whole = source_of(7, 2, 2, {0, 2, 3, 5}, straight)
    batches = [whole.batch(step, SimpleNamespace()).prompt_texts for step in range(whole.total_steps)]
    first, second = (source_of(7, 2, 2, {0, 2, 3, 5}, []) for _ in range(2))
    got = [first.batch(step, SimpleNamespace()).prompt_texts for step in range(2)]
    second.restore(first.state())
    assert got + [second.batch(step, SimpleNamespace()).prompt_texts for step in range(2, whole.total_steps)] == batches


def test_a_killed_run_ends_as_an_unbroken_one(tmp_path: Path, world: Any) -> None:
    """The cursor is in the checkpoint: byte for byte."""
    from building import job, settings_of

    settings = settings_of("rloo", curriculum={"kind": "varied", "rounds": 1}, reward="task")

    def start(folder: Path, die_at: int | None) -> int | None:
        process = multiprocessing.get_context("spawn").Process(target=job, args=(folder, world, settings, "rloo", die_at))
        process.start()
        process.join()
        return process.exitcode

    assert start(tmp_path / "broken", 2) == -signal.SIGKILL
    assert start(tmp_path / "broken", None) == start(tmp_path / "whole", None) == 0
    for name in ("metrics.jsonl", "samples.jsonl", "model/model.safetensors"):
        assert (tmp_path / "broken" / "out" / name).read_bytes() == (tmp_path / "whole" / "out" / name).read_bytes()
    kept = [row["kept"] for row in read_jsonl(tmp_path / "whole" / "out" / "metrics.jsonl")]
    assert min(kept) < 1, "nothing was dropped, so this shows nothing"
