"""Laws of every shaping, and that a run's loss sees what shaping made while its records keep the reward."""

from __future__ import annotations

import importlib
import typing
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlfamily import shaping
from rlfamily.config import build
from rlfamily.errors import UserError
from rlfamily.shaping import overlong

LENGTHS = st.lists(st.integers(0, 60), min_size=1, max_size=8)


def punished(lengths: list[int], rewards: list[float] | None = None, **changes: Any) -> list[float]:
    config = overlong.Config(**{"kind": "overlong", "max_length": 40, "buffer": 10, "weight": 2.0, **changes})
    given = torch.tensor(rewards or [0.0] * len(lengths))
    return overlong.shape(config, given, {}, torch.tensor(lengths), 1, 0.5).tolist()


@pytest.mark.parametrize("kind", shaping.names())
def test_every_shaping_says_what_it_is(kind: str) -> None:
    module = importlib.import_module(f"rlfamily.shaping.{kind}")
    assert module.__doc__ and isinstance(module.VERSION, str)
    assert typing.get_args(module.Config.model_fields["kind"].annotation) == (kind,)


def test_the_values_of_equation_13() -> None:
    assert punished([0, 30, 35, 40, 99]) == [0.0, 0.0, -1.0, -2.0, -2.0]


@given(LENGTHS)
def test_a_longer_response_never_earns_more_and_no_response_earns_more_than_given(lengths: list[int]) -> None:
    got = punished(lengths)
    assert all(-2.0 <= value <= 0.0 for value in got)
    assert [value for _, value in sorted(zip(lengths, got, strict=True))] == sorted(got, reverse=True)


@given(LENGTHS, st.randoms())
def test_rows_do_not_see_each_other(lengths: list[int], random: Any) -> None:
    order = list(range(len(lengths)))
    random.shuffle(order)
    rewards = [float(index) for index in range(len(lengths))]
    moved = punished([lengths[index] for index in order], [rewards[index] for index in order])
    assert moved == [punished(lengths, rewards)[index] for index in order]


def test_several_are_applied_in_their_order() -> None:
    first, second = (overlong.Config(kind="overlong", max_length=length, buffer=1, weight=1.0) for length in (5, 9))
    rewards = torch.zeros(3)
    assert shaping.shaped([first, second], rewards, {}, torch.tensor([4, 6, 9]), 1, 0.0).tolist() == [0.0, -1.0, -2.0]
    assert shaping.shaped([], rewards, {}, torch.tensor([4, 6, 9]), 1, 0.0) is rewards


@pytest.mark.parametrize(("override", "line"), [
    ("algorithm.shaping=[{kind: overlon}]", r"no shaping 'overlon' in rlfamily/shaping \(did you mean 'overlong'\?\)"),
    ("algorithm.shaping=[{kind: overlong, max_lenght: 40, buffer: 8, weight: 1.0}]",
     r"algorithm: unknown key 'shaping\.0\.max_lenght' \(did you mean 'max_length'\?\)"),
    ("algorithm.shaping=[{kind: overlong, max_length: 4, buffer: 8, weight: 1.0}]", r"shaping\.0: buffer=8 is more than max_length=4"),
    ("algorithm.shaping=[{kind: overlong, max_length: 40, buffer: 8}]", r"missing key 'shaping\.0\.weight'"),
    ("algorithm.shaping=overlong", r"algorithm: shaping: "),
])
def test_what_is_wrong_is_refused_in_one_line(override: str, line: str) -> None:
    with pytest.raises(UserError, match=line) as error:
        build([override])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", ["shaping=[{kind: overlong, max_length: 40, buffer: 8, weight: 1.0}]", "curriculum={kind: varied, rounds: 1}"])
def test_methods_that_draw_nothing_have_nothing_to_shape_or_select(change: str) -> None:
    with pytest.raises(UserError, match=f"algorithm.{change.partition('=')[0]}: dpo draws no responses"):
        build(["algorithm=dpo", f"algorithm.{change}"])


def test_a_run_learns_from_the_shaped_reward_and_records_the_given_one(tmp_path: Path, world: Any) -> None:
    from building import settings_of, trainer_of, watched

    chosen = {"kind": "overlong", "max_length": 12, "buffer": 6, "weight": 1.0}
    trainer = trainer_of(tmp_path, world, settings_of("rloo", shaping=[chosen]), "rloo")
    seen, record = watched(trainer), next(trainer.steps())
    plain = trainer_of(tmp_path / "plain", world, settings_of("rloo"), "rloo")
    given, same = watched(plain), next(plain.steps())
    lengths = [int(length) for length in given[0].mask_NT.sum(1)]
    config = overlong.Config(**chosen)
    expected = overlong.shape(config, given[0].rewards_N, {}, torch.tensor(lengths), 4, 0.0)
    assert torch.equal(seen[0].rewards_N, expected) and not torch.equal(seen[0].rewards_N, given[0].rewards_N)
    assert record.metrics["reward"] == same.metrics["reward"]
    assert record.metrics["shaped_reward"] == pytest.approx(float(expected.mean()))
    assert "shaped_reward" not in same.metrics and "kept" not in record.metrics
    assert record.samples == same.samples
