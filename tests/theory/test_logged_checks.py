"""What the theory stage computes for methods of logged responses: R1 to R8, KT1 to KT3, and what does not hold."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from small import place

from rlfamily.stages.kinds import theory
from rlfamily.theory import checks, logged_checks, online_checks

EXACT = 1e-10
OURS = {**logged_checks.CHECKS, **online_checks.CHECKS}
SLOW = {"rpo_minimiser", "rpo_value_bias", "dro_minimiser", "oreo_descent", "dro_online_descent"}


def silent(done: int, total: int, note: str) -> None:
    pass


def rows(check: str, **where: Any) -> list[dict[str, Any]]:
    found = list(checks.run([check], 0, silent))
    return [row for row in found if all(row[key] == value for key, value in where.items())]


def values(check: str, **where: Any) -> list[float]:
    return [row["value"] for row in rows(check, **where)]


@pytest.fixture(autouse=True)
def fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Biases from fewer draws."""
    monkeypatch.setattr(logged_checks, "DRAWN", 2**14)


@pytest.mark.parametrize("check", sorted(OURS.keys() - SLOW))
def test_what_should_be_exact_is(check: str) -> None:
    for row in rows(check):
        if row.get("expected") == 0:
            assert abs(row["value"]) < EXACT, row
        assert row["value"] == row["value"] and abs(row["value"]) < 1e6


def test_R1_R2_minimisers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logged_checks, "TAUS", (1.0,))
    before = values("rpo_reference")[0]
    for check in ("rpo_minimiser", "dro_minimiser"):
        for row in rows(check):
            assert row["value"] < EXACT if row.get("expected") == 0 else 1e-4 < row["value"] < 10 * before, row


def test_R3_biases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logged_checks, "TAUS", (1.0,))
    mean = values("rpo_value_bias", partition="mc")
    assert mean == sorted(mean) and abs(mean[-1]) < 0.02 < abs(mean[1])
    published = values("rpo_value_bias", partition="paper_logspace", distinct=False)
    assert published == sorted(published) and published[1] < -0.1 and published[-1] > 4
    distinct = rows("rpo_value_bias", partition="paper_logspace", distinct=True)
    assert distinct[1]["value"] < -0.5 and abs(distinct[-1]["value"]) < EXACT
    assert rows("rpo_value_bias", partition="mc")[1]["se"] > 1e-3


def test_R4_as_numbers() -> None:
    for row in rows("rpo_underflow", way="log space"):
        assert row["value"] == pytest.approx(row["expected"], rel=1e-6)
    assert values("rpo_underflow", way="exp") == [0, 0, 0]
    assert values("rpo_target", partition="repo", tau=1.0) == pytest.approx([0.92, -1.48], abs=0.005)
    assert min(values("rpo_imitation", partition="paper_logspace")) > 0.998
    assert max(map(abs, values("rpo_imitation", partition="none"))) < EXACT
    assert values("rpo_imitation", partition="repo", tau=5.0)[0] > 0.5 > values("rpo_imitation", partition="repo", tau=1.0)[0]
    assert values("rpo_effective_size", log_ratio="sum") == pytest.approx([1, 1, 1])
    assert values("rpo_length") == pytest.approx([100, 100, 100])
    assert min(values("rpo_shift", partition="none")) > 0.1


def test_R1_dro_without_its_value_and_R6_with_the_printed_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    assert min(values("dro_fixed_point", of="none", log="other")) > 0.01
    assert values("dro_scale") == pytest.approx([6.25] * 3)
    monkeypatch.setattr(online_checks, "TAUS", (0.1, 1.0))
    assert values("dro_online_descent", variant="direct")[0] < 1e-6
    assert values("dro_online_descent", variant="printed")[0] > 0.5


def test_R7_the_critic_learns_the_mean_reward_where_the_soft_value_is_promised() -> None:
    found = rows("dro_online_value")
    assert [row["value"] * row["tau"] for row in found] == pytest.approx([found[1]["value"]] * 3)
    assert all(row["expected"] > row["value"] + 0.01 for row in found)


def test_R8_oreos_steps_end_at_the_tilted_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logged_checks, "TAUS", (0.1, 5.0))
    assert max(values("oreo_descent")) < 1e-6


def test_KT2_KT3_as_numbers() -> None:
    assert values("kto_saturation", shift=0.0) == pytest.approx([0.0625, 0.0625])
    assert values("kto_saturation", shift=8.0) == pytest.approx([8.4e-5, 0.0625], rel=0.01)
    assert values("kto_reference_point", log="reference", clamped=True) == [0, 0, 0]
    assert max(values("kto_reference_point", log="reference", clamped=False)) < -0.01
    for clamped in (True, False):
        for row in rows("kto_reference_point", log="policy", clamped=clamped):
            assert row["value"] == pytest.approx(row["expected"])


@pytest.mark.parametrize("check", sorted(OURS))
def test_a_check_names_its_method(check: str) -> None:
    (found,) = theory.uses(theory.Config(checks=[check], seed=0))
    assert check.startswith(found.__name__.rpartition(".")[2])
    assert OURS[check].__doc__


def test_methods_are_used_once_each_and_the_nearest_is_not_the_shortest() -> None:
    def used(*names: str) -> list[str]:
        return [one.__name__.rpartition(".")[2] for one in theory.uses(theory.Config(checks=list(names), seed=0))]

    assert used("theorem_3_1", "rpo_shift", "rpo_length", "reference") == ["gnivo", "rpo"]
    assert used("dro_online_value") == ["dro_online"] and used("dro_scale") == ["dro"]


def test_the_methods_are_named_without_torch() -> None:
    code = ("import sys\nfrom rlfamily.stages.kinds import theory\n"
            "list(theory.uses(theory.Config(checks=['kto_gradient', 'oreo_descent', 'dro_scale'], seed=0)))\n"
            "assert 'torch' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_row_can_be_told_from_the_others_and_written(tmp_path: Any) -> None:
    here = place(tmp_path)
    wanted = sorted(OURS.keys() - SLOW)
    theory.run(here, theory.Config(checks=wanted, seed=0), theory.Inputs())
    found = [json.loads(line) for line in (here.out / "theory.jsonl").read_text().splitlines()]
    keys = [tuple(sorted((k, str(v)) for k, v in row.items() if k not in {"value", "expected", "se", "item"})) for row in found]
    assert len(keys) == len(set(keys)) and {row["check"] for row in found} == set(wanted)
