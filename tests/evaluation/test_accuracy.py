"""The accuracy of a reward on held-out pairs, and which stages measure it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import pytest
from small import place

from rlfamily.config import build
from rlfamily.errors import UserError
from rlfamily.evaluation import accuracy
from rlfamily.examples import Pair
from rlfamily.nodes import Planner
from rlfamily.records import read_jsonl, write_jsonl
from rlfamily.stages.graph import topological

PAIRS = [Pair("code", "a", "long one", "no", 1.0, {}), Pair("code", "b", "no", "long one", 1.0, {}),
         Pair("code", "c", "longer yet", "no", 1.0, {}), Pair("maths", "d", "long one", "no", 3.0, {}),
         Pair("maths", "e", "same", "tied", 1.0, {})]


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Measured with a reward that likes length."""
    def score(examples: Any, responses: Any, truncated: Any = ()) -> Any:
        assert [example.prompt for example in examples] == [pair.prompt for pair in PAIRS]
        return [SimpleNamespace(reward=float(len(one))) for one in responses]

    monkeypatch.setattr(accuracy, "task_reward", lambda *rest: SimpleNamespace(score=score))
    write_jsonl(tmp_path / "pairs_test.jsonl", map(asdict, PAIRS))
    here = place(tmp_path / "job")
    config: Any = None
    assert accuracy.write_accuracy(here, tmp_path, {}, "tldr_guided", config) == {"pairs": 5}
    return list(read_jsonl(here.out / "accuracy.jsonl"))


def test_right_is_a_positive_margin_and_half_for_a_tie(rows: list[dict[str, Any]]) -> None:
    assert [row["right"] for row in rows] == [1.0, 0.0, 1.0, 1.0, 0.5]
    assert [row["margin"] for row in rows] == [6.0, -6.0, 8.0, 6.0, 0.0]
    assert [row["item"] for row in rows] == [0, 1, 2, 3, 4]


def test_the_mean_of_weighed_is_the_weighted_accuracy_of_a_subset(rows: list[dict[str, Any]]) -> None:
    weighed = {subset: fmean(row["weighed"] for row in rows if row["subset"] == subset) for subset in ("code", "maths")}
    assert weighed == {"code": pytest.approx(2 / 3), "maths": pytest.approx((3 * 1.0 + 1 * 0.5) / 4)}


def test_the_stage_reads_the_models_that_guide_and_no_policy() -> None:
    node = Planner(build(["task=tldr_guided_tiny", "algorithm=none"]), "x").accuracy
    assert [one.kind for one in topological([node])] == ["data", "preference_model", "accuracy"]
    assert list(node.settings["reward"]["components"]) == ["rm"]


@pytest.mark.parametrize("task", ["countdown_tiny", "tldr_tiny"])
def test_a_task_without_pairs_is_refused(task: str) -> None:
    with pytest.raises(UserError, match=f"task {task} has no held-out pairs"):
        _ = Planner(build([f"task={task}", "algorithm=none"]), "x").accuracy
