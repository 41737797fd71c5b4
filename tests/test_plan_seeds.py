"""Seeds that one stage hands to another: whatever a seed should change has it, opponents and reward models included."""

from __future__ import annotations

import pytest
from test_plan import keys

from rlfamily import experiment
from rlfamily.config import build
from rlfamily.errors import UserError
from rlfamily.plan import cells, stages
from rlfamily.stages.graph import topological


@pytest.fixture(scope="module")
def judged():
    """Two seeds of a row against another row, and of one against an opponent of its own."""
    spec = experiment.load("gnivo_tab3")
    small = spec.model_copy(update={"columns": dict(list(spec.columns.items())[:1]),
                                    "models": dict(list(spec.models.items())[:1])})
    return small, cells(small, "tiny", seeds=[0, 1])


def test_a_policy_meets_the_opponent_of_its_own_seed(judged):
    """Both sides of a judgement are runs of one seed, and no seed's opponent is another's, where it is trained."""
    spec, planned = judged
    column, opponents = next(iter(spec.columns)), {}
    for cell in planned:
        sides = cell.stages["judge"].inputs
        for role in ("ours", "theirs"):
            seeds = {node.config.seed for node in topological([sides[role]]) if node.kind == "train"}
            assert seeds <= {cell.seed}, (cell.row, role)
        opponents.setdefault(cell.row, {})[cell.seed] = sides["theirs"].key
    trained = {row: found for row, found in opponents.items() if not spec.opponent(row, column).untrained}
    assert trained
    assert all(len(set(found.values())) == 2 for found in trained.values())


@pytest.mark.parametrize(("overrides", "stage"), [(["algorithm=dpo"], "pairs"),
                                                  (["algorithm=rloo", "algorithm.reward=reward_model"], "pairs"),
                                                  (["algorithm=rloo", "algorithm.reward=reward_model"], "reward_model")])
def test_every_seed_has_pairs_and_a_reward_model_of_its_own(overrides, stage):
    """Also where all seeds start from one policy: shared ones would make their intervals too narrow."""
    start = ["algorithm.warm_start=base"]
    first, second = (keys(*overrides, *start, f"seed={seed}") for seed in (0, 1))
    assert first["base"] == second["base"]
    assert first[stage] != second[stage]


def test_a_reward_model_is_fitted_with_the_seed_of_its_cell():
    from test_plan import graph

    made = graph("algorithm=rloo", "algorithm.reward=reward_model", "seed=3")
    assert {made[name].config.seed for name in ("pairs", "reward_model", "train", "warm start")} == {3}


def test_a_stage_is_named_by_what_tells_it_from_the_others():
    """Models and columns only where there are several that run; benchmarks of one run are none."""
    def label(table, **few):
        spec = experiment.load(table)
        return cells(spec.model_copy(update=few), "tiny", seeds=[4])[0].stages["train"].label

    wide = experiment.load("gnivo_tab1")
    first = dict(list(wide.rows.items())[1:2])
    model, row = list(wide.backbones)[0], list(first)[0]
    assert label("topr_fig5") == "Experiment 2 · seed 4"
    assert label("gnivo_tab1", rows=first) == f"{row} · {model} · seed 4"


def test_a_task_without_preferences_has_no_reward_model_of_its_own():
    with pytest.raises(UserError, match="task helpful_tiny does not say how to fit one .* use algorithm.reward=task"):
        stages(build(["task=helpful_tiny", "algorithm=rloo", "algorithm.warm_start=base", "algorithm.reward=reward_model"]), ["train"])
