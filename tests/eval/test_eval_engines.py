"""A run whose engine and trainer disagree too much is marked wherever its numbers go; who drew is said below."""

from __future__ import annotations

import io

import numpy as np
import pytest
from fixture import commit, write_index
from rich.console import Console

from eval.artifact_pages import Lineage, artifact_page
from eval.artifacts import Archive
from eval.html import linker, render
from eval.tables import Book, records
from eval.terminal import show
from eval.text import to_latex, to_markdown
from rlfamily.records import CellEntry

LIMIT = 0.01
FAR = {"kl": 0.3123, "step": 12}
NEAR = {"kl": 0.0004, "step": 3}
MARK = "engine and trainer disagree"
SPEC = {
    "title": "Engines", "paper": "P", "place": "Table 1", "about": "a", "kind": "table", "model": "m",
    "scales": {"tiny": {"seeds": [0, 1], "base": []}},
    "rows": {"base": ["algorithm=none"], "Near": [], "Far": []},
    "columns": {"A": [], "B": [], "C": []},
    "metrics": [{"name": "reward", "stage": "score", "field": "reward", "better": "higher"},
                {"name": "loss", "stage": "train", "field": "loss"}],
    "derived": [{"column": "all", "metric": "mean", "of": "reward", "over": ["A", "B"], "operation": "mean"},
                {"column": "rest", "metric": "rest", "of": "reward", "over": ["B", "C"], "operation": "mean"}],
}


def cell(root, row, column, seed, engine, gap, limit=LIMIT):
    """Train, score; the run of column A alone has the gap."""
    rng, stages, inputs = np.random.default_rng([seed, len(row)]), {}, {}
    if row != "base":
        steps = [{"step": step, "loss": float(rng.normal()), "mismatch_mean": 0.01, "mismatch_max": 0.1,
                  "mismatch_kl": 0.001, "tokens": 5} for step in range(20)]
        stages["train"] = commit(
            root, "train", f"{row} · {column} · seed {seed}", {}, {"metrics.jsonl": steps},
            {"rollout": {"engine": engine, "importance_cap": None}},
            {"steps": 20, "mismatch": gap if column == "A" else NEAR})
        inputs = {"policy": stages["train"]}
    scores = [{"mode": "greedy", "item": item, "draw": 0, "reward": float(rng.normal())} for item in range(20)]
    stages["score"] = commit(root, "score", f"score {row} · {column} · seed {seed}", inputs, {"scores.jsonl": scores},
                             {"engine": engine})
    return CellEntry(model="m", row=row, column=column, seed=seed, overrides=[], names={"task": "t"},
                     config={"rollout": {"mismatch_limit": limit}},
                     stages=stages, status="done")


def results(root, engine="vllm", gaps=(NEAR, FAR), limit=LIMIT):
    """`gaps` are those of the row Far by seed; the other rows are near."""
    cells = [cell(root, row, column, seed, engine, gaps[seed] if row == "Far" else NEAR, limit)
             for row in SPEC["rows"] for column in SPEC["columns"] for seed in (0, 1)]
    write_index(root, "engines", SPEC, cells, "tiny")
    return Archive(root)


@pytest.fixture(scope="module")
def far(tmp_path_factory):
    return Book(results(tmp_path_factory.mktemp("far")))


def test_one_seed_over_the_limit_marks_every_number_made_from_it(far):
    frame = far.frame("engines")
    marked = {(entry.row, entry.column, entry.metric.name) for entry in frame.entries if entry.warnings}
    assert marked == {("Far", "A", "reward"), ("Far", "A", "loss"), ("Far", "all", "mean")}
    note = f"{MARK}: KL 0.31 nats a token at step 12 of Far · A · seed 1 (limit 0.01)"
    for column, metric in (("A", "reward"), ("A", "loss"), ("all", "mean")):
        entry = frame.at("Far", column, metric)[0]
        assert entry.warnings == (note,)
        assert entry.note == note
        assert entry.seeds == (0, 1)  # marked, not dropped
    assert [row["note"] for row in records(frame) if MARK in row["note"]] == [note] * 3


def test_the_mark_stands_in_every_form_of_the_table(far):
    frame = far.frame("engines")
    out = io.StringIO()
    show(frame, Console(file=out))
    page = render("table.html", frame=frame, link=linker(far.archive, ""), home="")
    # at its three places and once below them
    assert to_markdown(frame).count(MARK) == 3 + 1
    assert page.count(MARK) == 3 + 1
    assert page.count('class="chip engine-and-trainer-disagree"') == 3
    assert "limit 0.01" in " ".join(out.getvalue().split())
    assert MARK in to_latex(frame)


def test_both_seeds_are_named_and_a_gap_that_is_no_number_is_one(tmp_path):
    frame = Book(results(tmp_path, gaps=(FAR | {"kl": None, "step": 4}, FAR))).frame("engines")
    first, second = frame.at("Far", "A", "reward")[0].warnings
    assert first == f"{MARK}: KL not finite at step 4 of Far · A · seed 0 (limit 0.01)"
    assert second.endswith("seed 1 (limit 0.01)")
    assert to_markdown(frame).count(f"**{MARK}**") == 3  # one word a place


@pytest.mark.parametrize(("gap", "limit"), [(NEAR, LIMIT), (FAR, 0.4)])
def test_near_runs_are_not_marked(tmp_path, gap, limit):
    """The limit is the table's: another one needs no other run."""
    frame = Book(results(tmp_path, gaps=(NEAR, gap), limit=limit)).frame("engines")
    assert not any(entry.warnings for entry in frame.entries)


@pytest.mark.parametrize(("engine", "footnote"), [("vllm", "Responses drawn with vllm."), ("torch", "")])
def test_the_table_says_who_drew(tmp_path, engine, footnote):
    frame = Book(results(tmp_path, engine=engine, gaps=(NEAR, NEAR))).frame("engines")
    assert frame.footnote == footnote
    out = io.StringIO()
    show(frame, Console(file=out))
    for text in (to_markdown(frame), to_latex(frame), out.getvalue()):
        assert ("drawn with" in text) == bool(footnote)
    if footnote:
        assert f"\n- {footnote}\n" in to_markdown(frame)


def test_two_engines_are_both_named(tmp_path):
    cells = [cell(tmp_path, "base", column, 0, engine, NEAR) for column, engine in (("A", "vllm"), ("B", "torch"))]
    write_index(tmp_path, "engines", SPEC, cells, "tiny")
    assert Book(Archive(tmp_path)).frame("engines").footnote == "Responses drawn with torch and vllm."


def test_a_run_page_shows_the_gap_step_by_step(far):
    lineage = Lineage.of(far.archive)
    key = next(key for key in lineage.pages if lineage.label(key) == "Far · A · seed 1")
    page = artifact_page(far.archive, lineage, key)
    assert all(name in page for name in ("mismatch_mean", "mismatch_max", "mismatch_kl"))
    assert "0.3123" in page  # the totals


def test_runs_that_left_out_the_same_are_said_once(tmp_path):
    cells = []
    for seed, long in ((0, 2), (1, 2), (2, 3)):
        train = commit(tmp_path, "train", f"Ours · seed {seed}", {}, {}, {"seed": seed}, {"left_out": {"long prompts": long}})
        key = commit(tmp_path, "score", f"score {seed}", {"policy": train}, {"scores.jsonl": [{"item": 0, "reward": 1.0}]}, {})
        cells.append(CellEntry(model="m", row="base", column="A", seed=seed, overrides=[], names={"task": "t"}, config={},
                               stages={"score": key}, status="done"))
    write_index(tmp_path, "engines", SPEC, cells, "tiny")
    assert Book(Archive(tmp_path)).frame("engines").footnote == (
        "Left out of Ours · seed 0 and 1 more: 2 long prompts. Left out of Ours · seed 2: 3 long prompts.")


def test_the_table_says_what_its_data_left_out(tmp_path):
    """Once for each data set, however many numbers stand on it; nothing of data that left out nothing."""
    cells = []
    for column, left_out in (("A", {"training problems that are held out": 3, "rows without an answer": 1}), ("B", {})):
        data = commit(tmp_path, "data", f"data {column}", {}, {}, {"task": column}, {"train": 9, "left_out": left_out})
        for seed in (0, 1):
            key = commit(tmp_path, "score", f"score {column} {seed}", {"data": data},
                         {"scores.jsonl": [{"item": 0, "reward": 1.0}]}, {})
            cells.append(CellEntry(model="m", row="base", column=column, seed=seed, overrides=[], names={"task": "t"},
                                   config={}, stages={"score": key}, status="done"))
    write_index(tmp_path, "engines", SPEC, cells, "tiny")
    frame = Book(Archive(tmp_path)).frame("engines")
    assert frame.footnote == "Left out of data A: 3 training problems that are held out, 1 rows without an answer."
    assert f"\n- {frame.footnote}\n" in to_markdown(frame)
