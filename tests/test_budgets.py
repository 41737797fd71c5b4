"""At an equal budget a method's size is the largest whose counted cost stays within the named row's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rlfamily import budgets
from rlfamily.errors import UserError
from rlfamily.experiment import Experiment
from rlfamily.plan import cells
from rlfamily.records import Layout, write_atomic, write_jsonl

SPEC: dict[str, Any] = yaml.safe_load("""
title: t
paper: P
place: Table 1
about: a
kind: table
scales:
  tiny: {seeds: [0, 1], base: [model=qwen2_tiny, hardware=cpu]}
rows:
  Reference: [algorithm=none, decoding=best_of_n, decoding.samples=5]
  Sized: {note: said before, overrides: [algorithm=none, decoding=best_of_n, decoding.samples=16]}
  Fixed: [algorithm=none]
columns:
  Chat: [task=helpful_tiny]
  Sums: [task=tldr_tiny]
budget: {row: Reference, sizes: {Sized: [[decoding.samples=1], [decoding.samples=4], [decoding.samples=8]]}}
metrics:
  - {name: reward, stage: score, field: reward, where: {mode: sample}}
  - {name: tokens, stage: generate, field: cost_tokens, where: {mode: sample}, better: lower}
""")


@pytest.fixture(scope="module")
def tried():
    experiment = Experiment.model_validate(SPEC)
    return experiment, cells(budgets.trials(experiment), "tiny")


def respond(layout: Layout, cell: Any, cost: float) -> None:
    """Made-up responses: two sampled ones of this cost on average, and a greedy one that does not count."""
    folder = layout.object(cell.stages["generate"].key)
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "responses.jsonl", [
        {"mode": mode, "cost_tokens": tokens, "cost_forwards": 0, "cost_value_queries": 2, "cost_reward_queries": 1}
        for mode, tokens in (("greedy", 1e9), ("sample", cost - 1), ("sample", cost + 1))])
    write_atomic(folder / "manifest.json", "{}")


def test_all_sizes_are_tried_as_far_as_their_responses(tried):
    _, made = tried
    assert len(made) == (1 + 3) * 2 * 2
    assert all(set(cell.stages) == {"generate"} for cell in made)
    assert {cell.config.decoding.samples for cell in made if cell.row.startswith("Sized")} == {1, 4, 8}


def test_the_largest_that_fits_is_taken_and_told(tried, tmp_path: Path):
    experiment, made = tried
    layout = Layout(tmp_path)
    for cell in made:
        each = 10 if cell.column == "Chat" else 12
        respond(layout, cell, each * cell.config.decoding.samples if cell.row != "Reference" else 50)
    fitted = budgets.fitted(experiment, "tokens", made, layout)
    planned = cells(fitted, "tiny")
    assert {(cell.row, cell.column): cell.config.decoding.samples for cell in planned if cell.row != "Fixed"} == {
        ("Reference", "Chat"): 5, ("Reference", "Sums"): 5, ("Sized", "Chat"): 4, ("Sized", "Sums"): 4}
    assert fitted.rows["Sized"].note == (
        "said before; Chat: decoding.samples=4, 40 of 50 tokens a response; Sums: decoding.samples=4, 48 of 50 tokens a response")
    assert fitted.rows["Fixed"] == experiment.rows["Fixed"]
    assert "decoding.samples=8, 3 of 3 queries" in budgets.fitted(experiment, "queries", made, layout).rows["Sized"].note


def test_where_nothing_fits_the_smallest_stands_and_says_so(tried, tmp_path: Path):
    experiment, made = tried
    for cell in made:
        respond(Layout(tmp_path), cell, 50 if cell.row == "Reference" else 60)
    fitted = budgets.fitted(experiment, "tokens", made, Layout(tmp_path))
    assert fitted.rows["Sized"].note.count("decoding.samples=1, 60 of 50 tokens a response, though the smallest costs more") == 2


def test_what_cannot_be_counted_is_refused(tried, tmp_path: Path):
    experiment, made = tried
    with pytest.raises(UserError, match="budget: nothing counts 'token' \\(did you mean 'tokens'\\?\\)"):
        budgets.require("token", {"t": experiment})
    with pytest.raises(UserError, match="budget: table t has no methods with a free size"):
        budgets.require("tokens", {"t": experiment.model_copy(update={"budget": None})})
    with pytest.raises(UserError, match="row 'Reference' has no responses to count"):
        budgets.fitted(experiment, "tokens", made, Layout(tmp_path))
    with pytest.raises(ValueError, match="there is no row 'Sizes'"):
        Experiment.model_validate(SPEC | {"budget": {"row": "Reference", "sizes": {"Sizes": [["a=1"]]}}})


def test_costs_are_read_from_the_stage_that_drew(tried):
    experiment, _ = tried
    assert experiment.stages == ["generate", "score"]
    (cell, *_) = cells(experiment, "tiny", rows=["Fixed"])
    assert cell.stages["score"].inputs["responses"] is cell.stages["generate"]
