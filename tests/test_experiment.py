"""The schema of experiments, what it refuses, and how its parts become the overrides of a cell."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from rlfamily import experiment
from rlfamily.config import build
from rlfamily.errors import UserError
from rlfamily.experiment import Experiment
from rlfamily.plan import cells
from rlfamily.stages.graph import topological

SPEC: dict[str, Any] = yaml.safe_load("""
title: t
paper: P
place: Table 1
about: a
kind: table
models:
  Small: [model.hidden_size=64]
  Large: {tiny: [model.hidden_size=128], paper: [model=qwen25_05b]}
scales:
  tiny: {seeds: [0, 1], base: [task=countdown_tiny, model=qwen2_tiny, hardware=cpu, algorithm.epochs=2]}
  paper: {seeds: [0], base: [task=countdown, hardware=gpu]}
rows:
  base: [algorithm=none, algorithm.warm_start=sft]
  RLOO: [algorithm=rloo]
  TOPR, fast:
    overrides: [algorithm=topr, algorithm.optimizer.lr=2e-6]
    at:
      - {model: Large, overrides: [algorithm.optimizer.lr=3e-6]}
      - {model: Large, column: Hard, overrides: {tiny: [algorithm.optimizer.lr=4e-6], paper: []}}
  Control: {optional: true, overrides: [algorithm=topr, algorithm.optimizer.lr=0.0]}
columns:
  Easy: [algorithm.optimizer.lr=5e-6]
  Hard: {overrides: {tiny: [algorithm.optimizer.lr=6e-6], paper: []}, where: {mode: sample}}
metrics:
  - {name: Avg@1, stage: score, field: reward, where: {mode: greedy}, better: higher, over_seeds: best, watch: valid}
  - {name: valid, stage: score, field: valid, better: higher}
derived:
  - {column: Mean, metric: mean of Avg@1, of: Avg@1, over: [Easy, Hard], operation: mean, better: higher}
""")


def changed(**changes: Any) -> dict[str, Any]:
    return {key: value for key, value in (SPEC | changes).items() if value is not None}


def test_every_experiment_reads_back_as_written():
    for name in experiment.names():
        spec = experiment.load(name)
        assert Experiment.model_validate(spec.model_dump(mode="json")) == spec
        assert spec.stages or spec.kind == "settings"


@pytest.mark.parametrize(("model", "row", "column", "rate"), [
    ("Small", "RLOO", "Easy", 5e-6),  # the column
    ("Small", "RLOO", "Hard", 6e-6),  # the column at this scale
    ("Small", "TOPR, fast", "Easy", 2e-6),  # a row beats its column
    ("Large", "TOPR, fast", "Easy", 3e-6),  # the row at this model
    ("Large", "TOPR, fast", "Hard", 4e-6),  # the row at this model and column
])
def test_what_comes_later_wins(model, row, column, rate):
    (cell,) = [cell for cell in cells(Experiment.model_validate(SPEC), "tiny", seeds=[0], rows=[row])
               if (cell.model, cell.column) == (model, column)]
    assert cell.config.algorithm.optimizer.lr == rate
    assert cell.config.model.hidden_size == (64 if model == "Small" else 128)
    assert cell.config.algorithm.epochs == 2


def test_the_command_line_beats_all():
    found = cells(Experiment.model_validate(SPEC), "tiny", ["algorithm.optimizer.lr=7e-6"], [0])
    assert {cell.config.algorithm.optimizer.lr for cell in found if cell.config.trained} == {7e-6}
    assert {cell.row for cell in found if not cell.config.trained} == {"base"}


def test_a_row_that_trains_nothing_leaves_out_what_others_train_with():
    """Scale, model, column and command line speak to every row; the rest of what they say holds for it too."""
    extra = ["algorithm.prompts=16", "algorithm.kl={coef: 0.2, form: k2, place: loss}", "task.eval_draws=1"]
    (cell, *_) = cells(Experiment.model_validate(SPEC), "tiny", extra, [0], ["base"])
    assert cell.overrides == ["task=countdown_tiny", "model=qwen2_tiny", "hardware=cpu", "model.hidden_size=64",
                              "algorithm=none", "algorithm.warm_start=sft", "task.eval_draws=1", "seed=0"]
    assert build(cell.overrides) == cell.config
    start = cells(Experiment.model_validate(SPEC), "tiny", ["algorithm.warm_start=base"], [0], ["base"])[0]
    assert start.config.algorithm.warm_start == "base"


def test_the_opponent_of_a_judged_row_may_be_what_nobody_trained():
    spec = experiment.load("gnivo_tab3")
    cell = cells(spec, "tiny", ["algorithm.optimizer.lr=1e-6"], rows=["Ours vs base"])[0]
    ours, theirs = cell.stages["judge"].inputs["ours"], cell.stages["judge"].inputs["theirs"]
    assert theirs.inputs["responses"].inputs["policy"].key == ours.inputs["responses"].inputs["policy"].inputs["policy"].key


def test_order_rows_and_labels():
    found = cells(Experiment.model_validate(SPEC), "tiny", rows=["RLOO", "base"])
    assert [(cell.model, cell.row, cell.column, cell.seed) for cell in found] == [
        (model, row, column, seed) for model in ("Small", "Large") for row in ("base", "RLOO")
        for column in ("Easy", "Hard") for seed in (0, 1)]
    assert found[4].stages["train"].label == "RLOO · Small · Easy · seed 0"


def test_an_untrained_row_scores_what_training_starts_from():
    spec = Experiment.model_validate(SPEC)
    assert spec.start == "base"
    base, trained = (cells(spec, "tiny", seeds=[0], rows=[row])[0] for row in ("base", "RLOO"))
    assert list(base.stages) == ["score"]
    start = next(node for node in topological([trained.stages["train"]])
                 if node.key == base.stages["score"].inputs["responses"].inputs["policy"].key)
    assert start.key == trained.stages["train"].inputs["policy"].key


def test_columns_of_one_run_share_it():
    spec = Experiment.model_validate(changed(columns={
        "Easy": {"overrides": [], "where": {"mode": "greedy"}}, "Hard": {"overrides": [], "where": {"mode": "sample"}}}))
    easy, hard = cells(spec, "tiny", seeds=[0], rows=["RLOO"])[:2]
    assert easy.stages["score"].key == hard.stages["score"].key
    assert easy.stages["train"].label == "RLOO · Small · seed 0"


def test_theory_is_one_stage_for_all():
    metric = {"name": "KL", "stage": "theory", "field": "value"}
    spec = Experiment.model_validate(changed(
        kind="theory", theory={"checks": ["a"], "seed": 0}, metrics=[metric], derived=None, models=None, columns={"Easy": [], "Hard": []},
        rows={"K=2": {"overrides": [], "where": {"k": 2}}, "K=4": []}))
    found = cells(spec, "tiny", seeds=[0])
    assert [list(cell.stages) for cell in found] == [["theory"]] * 4
    assert len({cell.stages["theory"].key for cell in found}) == 1


JUDGED = [{"name": "win", "stage": "judge", "field": "win"}]


@pytest.mark.parametrize(("changes", "message"), [
    ({"model": "Small"}, "give model or models, not both"),
    ({"rows": {"A": {"overrides": [], "at": [{"model": "Lage", "overrides": []}]}}},
     "no model 'Lage' (did you mean 'Large'?)"),
    ({"rows": {"A": {"overrides": [], "at": [{"column": "Eazy", "overrides": []}]}}},
     "no column 'Eazy' (did you mean 'Easy'?)"),
    ({"rows": {"A": {"overrides": {"tin": []}}}}, "no scale 'tin' (did you mean 'tiny'?)"),
    ({"rows": {"A": {"overrides": [], "against": "B"}}, "metrics": JUDGED, "derived": []}, "no row 'B'"),
    ({"metrics": JUDGED, "derived": []}, "every row of a judged table says against whom"),
    ({"derived": [SPEC["derived"][0] | {"of": "Avg"}]}, "no metric 'Avg' (did you mean 'Avg@1'?)"),
    ({"derived": [SPEC["derived"][0] | {"over": ["Easy", "Had"]}]}, "no column 'Had' (did you mean 'Hard'?)"),
    ({"metrics": [SPEC["metrics"][0]]}, "no metric 'valid'"),
    ({"metrics": [SPEC["metrics"][0] | {"better": "", "watch": ""}]}, "takes the best seed: say which is better"),
    ({"theory": {"checks": ["a"], "seed": 0}}, "belong together"),
    ({"rows": {"A": {"overrides": [], "optinal": True}}}, "optinal"),
    ({"scales": {"tiny": {"seeds": [0, 1, 0], "base": []}}}, "seeds=[0, 1, 0] names one twice, which is one run"),
])
def test_a_wrong_experiment_is_one_line(tmp_path, changes, message):
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(changed(**changes)))
    with pytest.raises(UserError) as error:
        experiment.load("x", tmp_path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_in_another_encoding_is_one_line(tmp_path):
    (tmp_path / "x.yaml").write_bytes("title: \u00e9".encode("latin-1"))
    with pytest.raises(UserError, match=r"x.yaml: not readable as yaml: 'utf-8' codec can't decode") as error:
        experiment.load("x", tmp_path)
    assert "\n" not in str(error.value)
