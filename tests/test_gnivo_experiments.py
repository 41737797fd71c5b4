"""The GN-IVO experiments: the settings of Table 5 at both scales, runs shared between tables, claims on printed numbers."""

from __future__ import annotations

import csv
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from eval import claims, deviations
from eval.artifacts import Archive
from rlfamily import experiment, plan

NAMES = [name for name in experiment.names() if name.startswith("gnivo_")]
SCALES = ("tiny", "paper")
TABLES = [name for name in NAMES if name != "gnivo_theory"]
FOLDER = Path(experiment.EXPERIMENTS)

REASONING = {"Llama-3.1-8B-Instruct": "Reasoning (Llama3.1)", "Qwen2.5-Math-7B": "Reasoning (Qwen2.5)"}
METHODS = ["SFT-winning", "Online DPO", "PPO", "DRO", "OREO", "RLOO", "GRPO", "Ours"]
FIELDS = {"lr": "optimizer.lr", "clip_norm": "optimizer.clip_norm", "K": "group_size", "clip": "clip", "alpha": "alpha",
          "beta": "kl.coef"}

# Table 5, in the order Llama math, Qwen math, helpful, TL;DR, prompt generation; its labels assigned as in the ledger.
LEARNING_RATE, CLIP_NORM, BETA = [1e-6] * 2 + [1e-5] * 3, [0.1] * 2 + [0.5] * 3, [0.05, 0.01, 0.1, 0.1, 0.1]
COMMON = {"lr": LEARNING_RATE, "clip_norm": CLIP_NORM, "beta": BETA}
PRINTED = {
    "SFT-winning": {**COMMON, "K": [2] * 5},
    "Online DPO": {**COMMON, "alpha": [0.2] * 5, "K": [2] * 5},
    "PPO": {**COMMON, "clip": [0.2] * 5, "K": [1] * 5},
    "DRO": {**COMMON, "clip": [0.2] * 5, "alpha": [0.2] * 5, "K": [1] * 5},
    "OREO": {**COMMON, "clip": [0.2] * 5, "alpha": [0.2] * 5, "K": [1] * 5},
    "RLOO": {"lr": [1e-6] * 2 + [5e-5] * 3, "clip_norm": CLIP_NORM, "K": [4] * 5, "beta": [0.05, 0.01, 0.2, 0.2, 0.2]},
    "GRPO": {**COMMON, "K": [4] * 5},
    "Ours": {**COMMON, "K": [4] * 5, "alpha": [0.2] * 5},
}


NEW = {"math": (1024, 2048), "helpful": (256, 256), "tldr": (256, 256), "prompt_generation": (256, 256)}  # App. D
PROMPT = {"math": 2048, "helpful": 768, "tldr": 768, "prompt_generation": 128}  # longer than any prompt is


load = cache(experiment.load)


@pytest.fixture(autouse=True, scope="module")
def composed_once():
    """Tables share most of their overrides, and composing is what takes the time here."""
    build, known = plan.build, {}

    def remembered(overrides):
        key = tuple(overrides)
        if key not in known:
            known[key] = build(overrides)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "build", remembered)
        yield


@cache
def cells(name: str, scale: str):
    """Cells of the rows that run unasked. At paper scale the text tables are planned for one model of their two."""
    spec = load(name)
    if scale == "paper" and name in ("gnivo_tab2", "gnivo_samples"):
        spec = spec.model_copy(update={"models": dict(list(spec.models.items())[-1:])})
    return plan.cells(spec, scale, rows=[row for row, one in spec.rows.items() if not one.optional])


def read(settings: dict, path: str):
    for part in path.split("."):
        settings = settings[part]
    return settings


def resolved(name: str, scale: str) -> dict[tuple[str, str, str], dict]:
    """Settings of the algorithm by model, row and column, first seed; of rows that train."""
    return {(cell.model, cell.row, cell.column): cell.config.algorithm.model_dump(mode="json")
            for cell in cells(name, scale) if cell.config.trained}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("method", METHODS)
def test_table_5_holds_what_the_paper_prints(method: str, scale: str) -> None:
    columns = list(load("gnivo_tab5").columns)
    found = resolved("gnivo_tab5", scale)
    for short, values in PRINTED[method].items():
        got = [read(found["", method, column], FIELDS[short]) for column in columns]
        assert got == pytest.approx(values), f"{method}: {short}"


@pytest.mark.parametrize("scale", SCALES)
def test_the_tables_run_what_table_5_shows(scale: str) -> None:
    shown = resolved("gnivo_tab5", scale)
    for (model, row, _), settings in resolved("gnivo_tab1", scale).items():
        if row in METHODS:
            assert settings == shown["", row, REASONING[model]] | _budget(settings), row
    for (_, row, column), settings in resolved("gnivo_tab2", scale).items():
        if row in METHODS:
            assert settings == shown["", row, column] | _budget(settings), row


@pytest.mark.parametrize("name", TABLES)
def test_responses_have_the_papers_room_whatever_the_prompt(name: str) -> None:
    for task in {cell.config.task.kind: cell.config.task for cell in cells(name, "paper")}.values():
        assert (task.rollout.max_new_tokens, task.evaluation.max_new_tokens) == NEW[task.kind]
        assert all(one.max_tokens - one.max_new_tokens >= PROMPT[task.kind] for one in (task.rollout, task.evaluation))
    for task in (cell.config.task for cell in cells(name, "tiny")):  # the numbers of tiny tables stay
        assert task.rollout.max_new_tokens is task.evaluation.max_new_tokens is None


def _budget(settings: dict) -> dict:
    """How long training takes: not a setting of Table 5."""
    return {name: settings[name] for name in ("prompts", "epochs")}


@pytest.mark.parametrize("name", TABLES)
def test_the_scales_differ_in_models_data_and_learning_rate_scale_only(name: str) -> None:
    spec = load(name)
    tiny, paper = resolved(name, "tiny"), resolved(name, "paper")
    assert paper
    assert {place: tiny[place] for place in paper} == paper, "a method's settings are the paper's at both scales"
    assert {cell.config.model.lr_multiplier for cell in cells(name, "paper")} == {1.0}
    assert {cell.config.task.prompt_fraction for cell in cells(name, "paper")} == {1.0}
    assert spec.paper == "GN-IVO"


@pytest.mark.parametrize("name", ["gnivo_tab1", "gnivo_tab2", "gnivo_fig1"])
def test_all_methods_meet_the_same_prompts(name: str) -> None:
    for scale in SCALES:
        budgets = {(one["prompts"], one["batch_prompts"], one["epochs"], one["warm_start"], one["sampling"]["temperature"])
                   for one in resolved(name, scale).values()}
        assert len(budgets) == 1, budgets


def test_equal_completions_are_equal() -> None:
    for name in ("gnivo_tab1", "gnivo_tab2"):
        spec, found = load(name), {}
        first = spec.model_copy(update={"models": dict(list(spec.models.items())[:1]),
                                        "columns": dict(list(spec.columns.items())[:1])})
        rows = [row for row in spec.rows if row.endswith("(equal completions)")]
        for cell in plan.cells(first, "paper", rows=[*rows, "Ours"]):
            one = cell.config.algorithm
            found[cell.row] = (one.batch_prompts * one.group_size, one.prompts * one.epochs // one.batch_prompts)
        assert len(rows) == 5
        assert {found[row] for row in rows} == {found["Ours"]}, "responses a step, and steps"


def test_other_tables_use_the_runs_of_table_2() -> None:
    def trained(name: str) -> set[str]:
        return {cell.stages["train"].key for cell in cells(name, "tiny") if "train" in cell.stages}

    runs = trained("gnivo_tab2")
    assert len(runs) == 2 * 3 * 9, "models, tasks, methods, at one seed"
    assert trained("gnivo_fig1") < runs
    assert trained("gnivo_samples") <= runs
    shared = {row.key for cell in cells("gnivo_tab3", "tiny") for role in ("ours", "theirs")
              for row in [cell.stages["judge"].inputs[role]]}
    assert shared <= {cell.stages["score"].key for cell in cells("gnivo_tab2", "tiny")}
    assert len(trained("gnivo_fig2a") & runs) == 2, "K=4 of both methods, first seed"
    assert trained("gnivo_fig2b") & trained("gnivo_fig6") & trained("gnivo_fig7") & runs, "the default settings"


@pytest.mark.parametrize("name", ["gnivo_tab1", "gnivo_tab2", "gnivo_samples"])
def test_the_base_row_is_the_policy_that_ours_starts_from(name: str) -> None:
    assert load(name).start == "base"
    for scale in SCALES:
        places = {(cell.model, cell.column, cell.seed, cell.row): cell for cell in cells(name, scale)}
        for (*place, row), cell in places.items():
            if row == "base":
                ours = places[*place, "Ours"].stages["train"]
                assert cell.stages["score"].inputs["responses"].inputs["policy"].key == ours.inputs["policy"].key


def test_benchmarks_share_one_run() -> None:
    keys = {cell.stages["score"].key for cell in cells("gnivo_tab1", "tiny")}
    assert len(keys) == 2 * (8 * 2 + 1), "models x (methods x seeds, and the untrained policy once)"


@pytest.mark.parametrize("name", [name for name in NAMES if load(name).published])
def test_every_published_number_has_its_place(name: str) -> None:
    spec = load(name)
    with (FOLDER / "published" / spec.published).open(newline="") as file:
        printed = {(row["model"], row["method"], row["task_or_benchmark"], row["metric"]) for row in csv.DictReader(file)}
    labels = [row.published for row in spec.rows.values() if row.published]
    places = {(model, row, column, metric.published or metric.name) for model, row, column, metric in
              product(spec.backbones, labels, spec.columns, spec.metrics)}
    places |= {(model, row, one.column, one.published or one.metric) for model, row, one in
               product(spec.backbones, labels, spec.derived)}
    assert not printed - places, "numbers of the paper that no place of the table shows"


PUBLISHED_VERDICTS = {
    "gnivo_c1": "contradicted", "gnivo_c2": "supported", "gnivo_c3": "supported", "gnivo_c4": "supported",
    "gnivo_c5": "supported", "gnivo_c6": "supported", "gnivo_c7": "contradicted", "gnivo_c8a": "supported",
    "gnivo_c8b": "contradicted", "gnivo_c9": "supported", "gnivo_c10": "supported", "gnivo_c11": "contradicted",
    "gnivo_c12": "contradicted", "gnivo_c13": "contradicted", "gnivo_c14": "contradicted", "gnivo_c15": "contradicted",
    "gnivo_c16": "contradicted", "gnivo_c17": "supported", "gnivo_c18": "not checkable", "gnivo_c19": "not checkable",
    "gnivo_c20": "not checkable", "gnivo_c21": "supported", "gnivo_c22": "contradicted",
    "gnivo_theorem_3_1": "not checkable", "gnivo_theorem_3_2": "not checkable",
    "gnivo_theorem_3_2_practice": "not checkable",
}


@cache
def verdicts_on_printed_numbers() -> dict[str, str]:
    side = claims.published_side(Archive(FOLDER.parent / "results"))
    found = [claim for claim in claims.load(FOLDER / "claims") if claim.id.startswith("gnivo_")]
    return {claim.id: claims.evaluate(claim, side, side).published.word for claim in found}


@pytest.mark.parametrize("name", PUBLISHED_VERDICTS)
def test_verdicts_on_the_printed_numbers_are_those_computed_by_hand(name: str) -> None:
    assert verdicts_on_printed_numbers()[name] == PUBLISHED_VERDICTS[name]


def specified(at: dict[str, str]) -> np.ndarray:
    """A number where the experiments have the place, as for a finished run."""
    spec = load(at["table"])
    derived = {(one.column, one.metric) for one in spec.derived}
    metrics = {metric.name for metric in spec.metrics}
    assert at["row"] in spec.rows, at
    assert len(spec.backbones) == 1 or at["model"] in spec.backbones, at
    assert (at.get("column"), at["metric"]) in derived or (at["metric"] in metrics and (
        at["column"] in spec.columns if "column" in at else len(spec.columns) == 1)), at
    return np.array([1.0])


@pytest.mark.parametrize("claim", [one for one in claims.load(FOLDER / "claims") if one.paper == "GN-IVO"],
                         ids=lambda claim: claim.id)
def test_claims_name_places_that_exist(claim) -> None:
    side = claims.published_side(Archive(FOLDER.parent / "results"))
    result = claims.evaluate(claim, side, replace(side, number=specified))
    assert claim.reproduced is None or isinstance(claim.reproduced, str) or result.reproduced.share is not None
    assert all(verdict.share is not None for verdict in result.also.values())


def test_claims_and_deviations_name_tables_that_exist() -> None:
    assert set(verdicts_on_printed_numbers()) == set(PUBLISHED_VERDICTS)
    named = {name for claim in claims.load(FOLDER / "claims") for name in claim.tables}
    named |= {name for one in deviations.load(FOLDER / "deviations") for name in one.experiments}
    assert named <= set(experiment.names())
