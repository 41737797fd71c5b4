"""A table made otherwise than its file says has a name of its own, says so, and replaces nothing."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlfamily import experiment, reproduce
from rlfamily.variants import changed, name_of


@pytest.mark.parametrize(("scale", "changes", "name"), [
    ("tiny", [], "topr_tab2"),
    ("paper", [], "topr_tab2@paper"),
    ("tiny", ["seeds=0"], "topr_tab2+seeds=0"),
    ("tiny", ["algorithm.prompts=16", "seeds=0,1"], "topr_tab2+algorithm.prompts=16+seeds=0,1"),
    ("paper", ["algorithm.optimizer.lr=2e-6"], "topr_tab2@paper+algorithm.optimizer.lr=2e-6"),
])
def test_names(scale, changes, name):
    assert name_of("topr_tab2", scale, changes) == name


@given(st.lists(st.text(min_size=1, max_size=200), max_size=3), st.lists(st.text(min_size=1, max_size=200), max_size=3))
def test_a_name_names_a_file_and_one_table_only(one, other):
    names = [name_of("t", "tiny", changes) for changes in (one, other)]
    assert all(re.fullmatch(r"[A-Za-z0-9_.@+=,-]{1,110}", name) for name in names)
    assert (names[0] == names[1]) == ("+".join(one) == "+".join(other))


def test_what_changes_no_number_changes_no_name():
    plain = ["results=/tmp/x", "hardware.slots=1", "hardware=gpu", "executor=local", "wandb=off"]
    assert changed(plain, [0, 1, 2], [0, 1, 2]) == changed(plain) == []
    assert changed([*plain, "model.layers=3"], [0], [0, 1, 2]) == ["model.layers=3", "seeds=0"]


def test_an_overridden_table_stands_beside_the_plain_one(tmp_path, monkeypatch):
    """Nothing is run: cells that are not there are holes, and tables are made of them all the same."""
    monkeypatch.setattr(reproduce, "_execute", lambda *given: (0, {}))

    def make(*words):
        reproduce.main(reproduce.parse(["topr_tab1", f"results={tmp_path}", *words]))
        return {path.stem for path in (tmp_path / "index").iterdir()}

    assert make() == {"topr_tab1"}
    plain = (tmp_path / "tables/topr_tab1.csv").read_bytes()
    assert make("seeds=1", "algorithm.epochs=1") == {"topr_tab1", "topr_tab1+algorithm.epochs=1+seeds=1"}
    assert "topr_tab1@paper" in make("scale=paper")
    assert (tmp_path / "tables/topr_tab1.csv").read_bytes() == plain
    title = experiment.load("topr_tab1").title
    assert json.loads((tmp_path / "index/topr_tab1@paper.json").read_text())["scale"] == "paper"
    for ending in ("md", "tex", "html"):
        told = (tmp_path / f"tables/topr_tab1+algorithm.epochs=1+seeds=1.{ending}").read_text()
        assert re.search(r"with algorithm\.epochs=1, seeds=1", told), ending
        assert "with algorithm" not in (tmp_path / f"tables/topr_tab1.{ending}").read_text()
    assert title in (tmp_path / "report/index.html").read_text()
