"""A metric of what nobody measures is refused where its table is planned, with the nearest name."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from rlfamily.errors import UserError
from rlfamily.experiment import Experiment
from rlfamily.plan import cells

SPEC: dict[str, Any] = yaml.safe_load("""
title: t
paper: P
place: Table 1
about: a
kind: table
scales:
  tiny: {seeds: [0], base: [task=math_tiny, model=qwen2_tiny, hardware=cpu]}
rows:
  GRPO: [algorithm=grpo]
  Ours: [algorithm=gnivo]
columns:
  AMC: {overrides: [], where: {benchmark: AMC2023}}
metrics:
  - {name: valid, stage: score, field: valid, where: {mode: greedy}}
""")


def metric(stage: str, field: str, **where: Any) -> dict[str, Any]:
    return {"metrics": [{"name": "m", "stage": stage, "field": field, "where": where}]}


def planned(changes: dict[str, Any], rows: list[str] | None = None) -> None:
    cells(Experiment.model_validate(SPEC | changes), "tiny", rows=rows)


@pytest.mark.parametrize(("changes", "line"), [
    (metric("score", "vaild"), "metric 'm': no field of stage score 'vaild' (did you mean 'valid'?)"),
    (metric("train", "mean_vaild"), "metric 'm': no field of stage train 'mean_vaild' (did you mean 'mean_valid'?)"),
    (metric("train", "pg_los"), "no field of stage train 'pg_los' (did you mean 'pg_loss'?)"),
    (metric("logprobs", "completion_logps"), "'completion_logps' (did you mean 'completion_logp'?)"),
    (metric("config", "algorithm.optimiser.lr"), "'algorithm.optimiser' (did you mean 'algorithm.optimizer'?)"),
    (metric("config", "task.eval_draw"), "no setting 'task.eval_draw' (did you mean 'task.eval_draws'?)"),
    (metric("config", "seed.lr"), "metric 'm': no setting 'seed.lr'"),
    (metric("generate", "cost_token"), "metric 'm': no field of stage generate 'cost_token' (did you mean 'cost_tokens'?)"),
    (metric("score", "valid", mode="gredy"), "where: no mode 'gredy' (did you mean 'greedy'?); there is greedy, sample"),
    (metric("score", "valid", moode="greedy"), "where: no field 'moode' (did you mean 'mode'?)"),
    ({"columns": {"A": {"overrides": [], "where": {"benchmark": "AMC203"}}}},
     "column 'A': where: no benchmark 'AMC203' (did you mean 'AMC2023'?); there is AIME2024, AIME2025, AMC2023,"),
    ({"columns": {"A": {"overrides": ["task=tldr_tiny"], "where": {"benchmark": "AMC2023"}}}}, "no benchmark 'AMC2023':"),
    ({"rows": {"R": {"overrides": ["algorithm.warm_start=base"], "where": {"benchmrk": "AMC2023"}}}}, "row 'R': where: no field 'benchmrk'"),
])
def test_what_no_row_can_have_is_refused(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as caught:
        planned(changes)
    assert line in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("changes", [
    metric("train", "t_draw_variance"), metric("config", "algorithm.alpha"),  # of rows that are not planned now
    metric("train", "mean_true_reward"), metric("train", "kl_ref_k3"), metric("train", "lr"),
    metric("score", "format", mode="sample"), metric("logprobs", "all_logp", split="train"),
    metric("config", "task.source.levels"),
])
def test_what_another_row_may_have_is_planned(changes: dict[str, Any]) -> None:
    planned(changes, rows=["GRPO"])


def test_the_models_of_a_reward_are_parts_of_its_scores() -> None:
    at = {"columns": {"Help": ["task=helpful_tiny"]}}
    planned(at | metric("score", "harmless"))
    planned(at | metric("train", "mean_harmless"))
