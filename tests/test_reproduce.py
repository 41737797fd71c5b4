"""The command line of tables: papers and rows by name, and what becomes of rows nobody asked for."""

from __future__ import annotations

import json

import pytest
from test_experiment import SPEC

from rlfamily import experiment, reproduce
from rlfamily.errors import UserError
from rlfamily.experiment import Experiment
from rlfamily.records import Index, Layout


@pytest.fixture
def specs():
    return {"one": Experiment.model_validate(SPEC)}


def test_a_paper_stands_for_its_tables():
    tables = reproduce.parse(["topr"]).tables
    assert tables == [name for name in experiment.names() if name.startswith("topr_")]
    assert reproduce.parse(["all"]).tables == experiment.names()
    first, *others = reproduce.parse(["topr_tab1", "topr"]).tables
    assert (first, sorted([first, *others])) == ("topr_tab1", tables)
    with pytest.raises(UserError, match=r"no experiment 'tpor'.*did you mean 'topr'"):
        reproduce.main(reproduce.parse(["tpor"]))


@pytest.mark.parametrize(("text", "rows"), [
    ("", ["base", "RLOO", "TOPR, fast"]),
    ("all", ["base", "RLOO", "TOPR, fast", "Control"]),
    ("Control", ["Control"]),
    ("RLOO,Control", ["RLOO", "Control"]),
    ("TOPR, fast", ["TOPR, fast"]),  # a comma inside a name
    ("TOPR, fast, RLOO", ["RLOO", "TOPR, fast"]),
])
def test_rows_by_name(specs, text, rows):
    assert reproduce.choose_rows(specs, text) == {"one": rows}


def test_the_longest_name_counts():
    spec = experiment.load("topr_tab2")
    assert reproduce.choose_rows({"t": spec}, "Experiment 1, honest") == {"t": ["Experiment 1, honest"]}
    assert reproduce.choose_rows({"t": spec}, "Experiment 1,Experiment 2") == {"t": ["Experiment 1", "Experiment 2"]}


@pytest.mark.parametrize("text", ["Contrl", "RLOO, Contrl"])
def test_an_unknown_row_is_refused(specs, text):
    with pytest.raises(UserError, match=r"no row 'Contrl' here \(did you mean 'Control'\?\)"):
        reproduce.choose_rows(specs, text)


@pytest.fixture
def table(tmp_path, monkeypatch, specs):
    """`run(*arguments)` reproduces the table with stages that do nothing; returns (exit code, keys it was to run)."""
    monkeypatch.setattr(experiment, "load", lambda name: specs["one"])
    monkeypatch.setattr(reproduce, "_show", lambda names, layout: 0)

    def run(*arguments):
        ran = set()

        def execute(nodes, results, hardware, executor):
            ran.update(node.label for node in nodes)
            for node in nodes:
                folder = Layout(tmp_path).object(node.key)
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "manifest.json").write_text("{}")
            done = type("Outcome", (), {"status": "done", "reason": ""})
            return 0, {node.key: done for node in nodes}

        monkeypatch.setattr(reproduce, "_execute", execute)
        code = reproduce.main(reproduce.parse(["one", f"results={tmp_path}", "seeds=0,1", *arguments]))
        return code, {label.split(" · ")[0].removeprefix("score ") for label in ran}

    run.index = lambda: Index.model_validate_json((tmp_path / "index" / "one.json").read_text())
    return run


def test_optional_rows_run_only_when_asked_and_stay_then(table):
    assert table() == (0, {"base", "RLOO", "TOPR, fast"})
    assert {cell.row for cell in table.index().cells} == {"base", "RLOO", "TOPR, fast"}
    assert table("rows=Control") == (0, {"Control"})
    assert {cell.row: cell.status for cell in table.index().cells} == dict.fromkeys(SPEC["rows"], "done")
    assert table() == (0, set(SPEC["rows"]))


def test_rows_not_asked_for_are_holes_not_failures(table):
    assert table("rows=RLOO") == (0, {"RLOO"})
    fates = {cell.row: (cell.status, cell.reason) for cell in table.index().cells}
    assert fates == {"base": ("missing", "not asked for"), "RLOO": ("done", ""), "TOPR, fast": (
        "missing", "not asked for")}
    assert {cell.model for cell in table.index().cells} == {"Small", "Large"}
    json.loads(table.index().model_dump_json())


def test_a_table_of_settings_needs_no_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(reproduce, "_show", lambda names, layout: 0)
    assert reproduce.main(reproduce.parse(["gnivo_tab5", "scale=paper", f"results={tmp_path}"])) == 0
    index = Index.model_validate_json((tmp_path / "index" / "gnivo_tab5@paper.json").read_text())
    assert {cell.status for cell in index.cells} == {"done"} and {cell.config["hardware"]["kind"] for cell in index.cells} == {"gpu"}


@pytest.mark.parametrize(("tables", "kind"), [
    (["gnivo_tab5", "gnivo_theory"], "cpu"), (["gnivo_theory", "topr_fig1", "gnivo_tab5"], "gpu"), (["topr_tab1"], "gpu")])
def test_the_machine_is_what_the_cells_with_stages_ask_for(tmp_path, monkeypatch, tables, kind):
    asked = []
    monkeypatch.setattr(reproduce, "_show", lambda names, layout: 0)
    monkeypatch.setattr(reproduce, "_execute", lambda nodes, results, hardware, executor: asked.append(hardware.kind) or (0, {}))
    reproduce.main(reproduce.parse([*tables, "scale=paper", "seeds=0", f"results={tmp_path}"]))
    assert asked == [kind]
