"""Rows that were scored on different prompts are named under their table; rows with the same ones say nothing."""

from __future__ import annotations

import pytest
from fixture import commit, write_index

from eval.artifacts import Archive
from eval.tables import Book
from eval.text import to_markdown
from rlfamily.records import CellEntry

SPEC = {
    "title": "Prompts", "paper": "P", "place": "Table 1", "about": "a", "kind": "table", "model": "m",
    "scales": {"tiny": {"seeds": [0], "base": []}}, "rows": {"A": [], "B": [], "C": []}, "columns": {"X": [], "Y": []},
    "metrics": [{"name": "reward", "stage": "score", "field": "reward", "where": {"mode": "greedy"}}],
}


def made(root, prompts):
    """`prompts` of each row and column; those of other modes do not count."""
    cells = []
    for (row, column), asked in prompts.items():
        scores = [{"mode": mode, "item": item, "draw": 0, "reward": float(item % 3), "prompt": prompt, "response": "r"}
                  for mode in ("greedy", "sample") for item, prompt in enumerate(asked if mode == "greedy" else ["z"])]
        key = commit(root, "score", f"score {row} {column}", {}, {"scores.jsonl": scores}, {})
        cells.append(CellEntry(model="m", row=row, column=column, seed=0, overrides=[], names={"task": "t"}, config={},
                               stages={"score": key}, status="done"))
    write_index(root, "prompts", SPEC, cells, "tiny")
    return Book(Archive(root)).frame("prompts")


SAME, FEWER, OTHER = ["p", "q", "r", "s"], ["p", "q", "r"], ["p", "q", "r", "t"]
NOTE = "Scored on different prompts, so that rows differ by their prompts too: "


@pytest.mark.parametrize(("changes", "note"), [
    ({}, ""),
    ({("C", "X"): FEWER}, f"{NOTE}A, B (4 prompts) | C (3 prompts); in m, X."),
    ({("A", "Y"): OTHER}, f"{NOTE}B, C (4 prompts) | A (4 prompts); in m, Y."),
    ({("A", "X"): OTHER, ("A", "Y"): OTHER}, f"{NOTE}B, C (4 prompts) | A (4 prompts); in m, X; m, Y."),
])
def test_rows_with_other_prompts_are_named(tmp_path, changes, note):
    prompts = {(row, column): SAME for row in "ABC" for column in "XY"} | changes
    frame = made(tmp_path, prompts)
    assert frame.footnote == note
    assert ("different prompts" in to_markdown(frame)) == bool(note)


def test_columns_may_have_prompts_of_their_own(tmp_path):
    assert made(tmp_path, {(row, column): SAME if column == "X" else OTHER for row in "ABC" for column in "XY"}).footnote == ""
