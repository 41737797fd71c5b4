"""Responses from a file, or the task's references, in the place of a policy's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small import place

from rlfamily import experiment, reproduce
from rlfamily.config import build
from rlfamily.errors import UserError
from rlfamily.experiment import Experiment
from rlfamily.plan import cells, stages
from rlfamily.records import read_jsonl, write_jsonl
from rlfamily.stages.graph import topological
from rlfamily.stages.kinds import outputs

UNTRAINED = ["task=ultrafeedback_tiny", "algorithm=none"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three held-out prompts, the last one again."""
    folder = tmp_path / "data"
    folder.mkdir()
    write_jsonl(folder / "test.jsonl", ({"id": f"test-{place}", "prompt": prompt, "meta": {"reference": f"best {place}"}}
                                        for place, prompt in enumerate(["one?", "two? ", "three?", "three?"])))
    return folder


def written(folder: Path, rows: Any, name: str = "model_outputs.json") -> str:
    path = folder / name
    path.write_text(json.dumps(rows))
    return str(path)


def responses(folder: Path, data: Path, said: str, prompts: int = 4) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    here = place(folder / "place")
    summary = outputs.run(here, outputs.config_of(said, prompts), outputs.Inputs(data))
    return summary, list(read_jsonl(here.out / "responses.jsonl"))


def row(instruction: str, output: str, **more: Any) -> dict[str, Any]:
    return {"instruction": instruction, "output": output, "generator": "mine"} | more


def test_the_references_of_a_task(tmp_path, data) -> None:
    summary, rows = responses(tmp_path, data, "references")
    assert [(one["item"], one["mode"], one["response"]) for one in rows] == [
        (place, "greedy", f"best {place}") for place in range(4)]
    assert summary == {"responses": 4, "generators": ["reference of the task"]}


def test_outputs_are_found_by_their_instruction(tmp_path, data) -> None:
    """In any order, with others beside them; of one instruction twice the first goes to the first."""
    path = written(tmp_path, [row("three?", "c"), row("four?", "x"), row("two?", "", dataset="d"), row("one?", "a"),
                              row("three?", "d")])
    summary, rows = responses(tmp_path, data, path)
    assert [one["response"] for one in rows] == ["a", "", "c", "d"] and summary["generators"] == ["mine"]
    assert [one["prompt"] for one in rows] == ["one?", "two? ", "three?", "three?"]


def test_a_file_that_changed_is_another_stage(tmp_path) -> None:
    first = outputs.config_of(written(tmp_path, [row("a", "b")]), 3)
    assert first != outputs.config_of(written(tmp_path, [row("a", "c")]), 3)
    assert first == outputs.config_of(written(tmp_path, [row("a", "b")]), 3)


@pytest.mark.parametrize(("rows", "line"), [
    ([row("one?", "a")], "has no output to 3 of 4 held-out prompts (the first: 'two?')"),
    ([{"instruction": "one?", "outputs": "a"}], "has no column 'output' (did you mean 'outputs'?)"),
    ([row("one?", "a") | {"output": None}], "row 0 of"), ([], "holds no rows"), ("text", "cannot read"),
])
def test_a_file_that_will_not_do_is_one_line(tmp_path, data, rows, line) -> None:
    with pytest.raises(UserError) as error:
        responses(tmp_path, data, written(tmp_path, rows))
    assert line in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("overrides", "line"), [
    (["responses=nowhere.json"], "there is no file 'nowhere.json': give one as alpaca_eval's model_outputs.json is"),
    (["responses=reference"], "responses: 'reference' is none of policy, references, or a file"),
    (["responses=references", "algorithm=rpo"], "are no policy's: use algorithm=none"),
])
def test_what_cannot_be_read_is_refused_before_anything_runs(overrides, line) -> None:
    with pytest.raises(UserError) as error:
        build([*UNTRAINED, *overrides])
    assert line in str(error.value) and "\n" not in str(error.value)


def test_nothing_is_trained_for_responses_that_are_there() -> None:
    nodes = stages(build([*UNTRAINED, "responses=references"]), ["score"])
    assert {node.kind for node in topological([*nodes.values()])} == {"data", "outputs", "score"}


# ------------------------------------------------------------------------- as rows of a table

SPEC = {
    "title": "t", "paper": "P", "place": "Table 1", "about": "a", "kind": "table",
    "scales": {"tiny": {"seeds": [0], "base": ["task=ultrafeedback_tiny", "model=llama_tiny"]}},
    "rows": {"base": ["algorithm=none"], "best": ["algorithm=none", "responses=references"]},
    "columns": {"A": {"overrides": [], "against": {"overrides": ["algorithm=none", "responses=references"]}},
                "B": {"overrides": [], "against": "base"}},
    "metrics": [{"name": "LC", "stage": "judge", "field": "controlled", "reduce": "lc_win_rate"}],
}


def test_columns_have_opponents(tmp_path) -> None:
    spec = Experiment.model_validate(SPEC)
    sides = {(cell.row, cell.column): cell.stages["judge"].inputs for cell in cells(spec, "tiny")}
    drawn, references = sides["base", "A"]["ours"].key, sides["base", "A"]["theirs"].key
    assert drawn != references and sides["best", "A"]["ours"].key == references
    assert {place: (one["ours"].key, one["theirs"].key) for place, one in sides.items()} == {
        ("base", "A"): (drawn, references), ("base", "B"): (drawn, drawn),
        ("best", "A"): (references, references), ("best", "B"): (references, drawn)}
    with pytest.raises(ValueError, match="every row of a judged table says against whom, or every column"):
        Experiment.model_validate(SPEC | {"columns": {"A": []}})
    with pytest.raises(ValueError, match="no row 'bas'"):
        Experiment.model_validate(SPEC | {"columns": {"A": {"overrides": [], "against": "bas"}}})


def test_a_file_becomes_a_row(tmp_path) -> None:
    path = written(tmp_path, [row("a", "b")], "it's.json")
    spec = Experiment.model_validate(SPEC).with_outputs({"mine": path})
    found = {cell.column: cell for cell in cells(spec, "tiny") if cell.row == "mine"}
    assert {*found} == {"A", "B"} and found["A"].config.responses == path
    assert {node.kind for node in topological([found["A"].stages["judge"]])} == {"data", "outputs", "score", "judge"}
    assert build(found["A"].overrides) == found["A"].config, "what the index says can be said again"


def test_the_command_line_takes_files(tmp_path) -> None:
    path = written(tmp_path, [row("a", "b")])
    request = reproduce.parse(["rpo_tab2", f"outputs.mine={path}", "results=x"])
    assert request.outputs == {"mine": path} and request.overrides == ["results=x"] and request.tables == ["rpo_tab2"]
    name = reproduce._named(request, "rpo_tab2", experiment.load("rpo_tab2"))
    assert name.startswith("rpo_tab2+outputs.mine=") and name != "rpo_tab2"


@pytest.mark.parametrize(("table", "word", "line"), [
    ("rpo_tab2", "outputs.=a.json", "outputs.: a row's name and a file"),
    ("rpo_tab2", "outputs.mine", "outputs.mine: a row's name and a file: write outputs.mine=model_outputs.json"),
    ("rpo_tab2", "outputs.RPO=a.json", "the table has a row 'RPO'"),
    ("rpo_tab3a", "outputs.mine=a.json", "each row of this table has an opponent of its own"),
    ("topr_tab1", "outputs.mine=a.json", "this table scores no responses"),
    ("rpo_tab2", "outputs.mine=nowhere.json", "responses: there is no file 'nowhere.json'"),
])
def test_a_file_that_is_no_row_is_one_line(table, word, line, tmp_path) -> None:
    with pytest.raises(UserError) as error:
        reproduce.main(reproduce.parse([table, word, "--plan", f"results={tmp_path}"]))
    assert line in str(error.value) and "\n" not in str(error.value)
