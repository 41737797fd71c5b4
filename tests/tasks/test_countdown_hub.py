"""The public datasets' format, in small local folders written here; and what happens without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest
import yaml
from data import with_source

from rlfamily.errors import UserError
from rlfamily.examples import read_demonstrations, read_examples
from rlfamily.tasks import countdown
from rlfamily.tasks.support import hub

CONF = Path(__file__).resolve().parents[2] / "conf" / "task" / "countdown.yaml"


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


# Rows 0..9 train, 10..12 test, 13..15 validation. Row 4 is test row 10 in another order, row 7 is row 2 again,
# and row 14 is test row 11.
PUZZLES = [{"target": 20 + i, "nums": [i + 1, i + 2, 40]} for i in range(16)]
PUZZLES[4] = {"target": 30, "nums": [12, 40, 11]}
PUZZLES[7] = {"target": 22, "nums": [40, 4, 3]}
PUZZLES[14] = {"target": 31, "nums": [40, 12, 13]}


def write_parquet(folder: Path, split: str, rows: list[dict[str, Any]]) -> None:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "data" / f"{split}-00000-of-00001.parquet")


def write_json(folder: Path, split: str, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(params=[write_parquet, write_json])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Settings of the task on two folders in the hub's format."""
    return folders(request.param, tmp_path, PUZZLES, {
        split: [{"query": f"{split} query {i}", "completion": f"answer\n{i}"} for i in range(count)]
        for split, count in (("train", 5), ("test", 2))})


def folders(write: Any, tmp_path: Path, puzzles: list[dict[str, Any]], texts: dict[str, list[dict[str, Any]]]) -> Any:
    write(tmp_path / "puzzles", "train", puzzles)
    for split, rows in texts.items():
        write(tmp_path / "texts", split, rows)
    content = yaml.safe_load(CONF.read_text())
    source = {**content["source"], "train_rows": 10, "train": 8, "test": 3, "validation": 3,
              "puzzles": {"path": str(tmp_path / "puzzles"), "revision": "main"},
              "demonstrations": {"path": str(tmp_path / "texts"), "revision": "main"}}
    return countdown.Config.model_validate({**content, "eval_prompts": 3, "source": source}).data


def test_splits_of_the_public_files(data: Any, tmp_path: Path) -> None:
    summary = countdown.build(data, tmp_path)
    splits = {name: read_examples(tmp_path / f"{name}.jsonl") for name in ("train", "validation", "test")}
    rows = {name: [int(example.id.split("-")[1]) for example in examples] for name, examples in splits.items()}
    assert rows["test"] == [10, 11, 12]  # exactly TinyZero's rows
    assert rows["validation"] == [13, 15]  # 14 is a test puzzle
    assert len(rows["train"]) == 8 and len({2, 7} & set(rows["train"])) == 1 and 4 not in rows["train"]
    assert rows["train"] != sorted(rows["train"])  # drawn at random
    assert {name: summary[name] for name in ("train", "validation", "test")} == {
        "train": 8, "validation": 2, "test": 3}
    assert summary["left_out"]["validation puzzles that are held out"] == 1
    assert summary["puzzles_revision"] == summary["demonstrations_revision"] == "local folder"
    for examples in splits.values():
        for example in examples:
            assert example.meta == PUZZLES[int(example.id.split("-")[1])]


def test_prompt_is_the_public_template(data: Any, tmp_path: Path) -> None:
    countdown.build(data, tmp_path)
    prompt = read_examples(tmp_path / "test.jsonl")[0].prompt
    assert "User: Using the numbers [11, 12, 40], create an equation that equals 30. You can" in prompt
    assert prompt.endswith("\nAssistant: Let me solve this step by step.\n<think>")
    assert prompt.count("\n") == 3


def test_demonstrations_are_taken_as_they_are(data: Any, tmp_path: Path) -> None:
    summary = countdown.build(data, tmp_path)
    rows = read_demonstrations(tmp_path / "demonstrations_train.jsonl")
    assert [(row.prompt, row.completion) for row in rows] == [(f"train query {i}", f"answer\n{i}") for i in range(5)]
    assert len(read_demonstrations(tmp_path / "demonstrations_validation.jsonl")) == 2
    assert (summary["demonstrations_train"], summary["demonstrations_validation"]) == (5, 2)
    assert not (tmp_path / "corpus.jsonl").exists()


def test_train_rows_depend_on_the_seed_alone(data: Any, tmp_path: Path) -> None:
    contents = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        countdown.build(with_source(data, {**data.source.model_dump(), "seed": seed}), tmp_path / name)
        contents.append((tmp_path / name / "train.jsonl").read_bytes())
    assert contents[0] == contents[1] != contents[2]


def refusal(data: Any, out: Path, **source: Any) -> str:
    with pytest.raises(UserError) as error:
        countdown.build(with_source(data, {**data.source.model_dump(), **source}), out)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_errors_are_one_line_that_says_what_to_do(data: Any, tmp_path: Path) -> None:
    assert "has 16 rows but train_rows + test + validation = 26" in refusal(data, tmp_path, train_rows=20)
    assert "lower it" in refusal(data, tmp_path, train=9)  # ten rows hold eight distinct puzzles
    swapped = refusal(data, tmp_path, puzzles=data.source.demonstrations.model_dump())
    assert swapped.startswith("task.source.puzzles.path: dataset") and "has no column 'nums'" in swapped
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "train.json").write_text("{ not json")
    assert "cannot be read" in refusal(data, tmp_path, puzzles={"path": str(tmp_path / "bad"), "revision": "main"})
    write_json(tmp_path / "odd", "train", [{"nums": ["1", "2"], "target": 3}] * 16)
    assert "row 10 has nums=['1', '2']" in refusal(
        data, tmp_path, puzzles={"path": str(tmp_path / "odd"), "revision": "main"})


def test_without_a_network_a_hub_id_is_refused_with_the_way_out(data: Any, tmp_path: Path) -> None:
    message = refusal(data, tmp_path, puzzles={"path": "nobody/nothing", "revision": "main"})
    assert message.startswith("task.source.puzzles.path: dataset 'nobody/nothing' (split 'train') cannot be read")
    assert "task.source.puzzles.path=/some/folder" in message


def test_resolved_revision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def resolve(path: str, revision: str) -> str:
        return hub.resolved_revision(hub.HubDataset(path=path, revision=revision))

    assert resolve("a/b", "0" * 40) == "0" * 40
    assert resolve(str(tmp_path), "main") == "local folder"
    assert resolve("a/b", "main") == "unresolved"  # offline
    info = type("Info", (), {"sha": "1" * 40})
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, path, revision: info)
    assert resolve("a/b", "main") == "1" * 40


@pytest.mark.parametrize("write", [write_parquet, write_json])
def test_rows_with_an_empty_cell_are_left_out_and_counted(tmp_path: Path, write: Any) -> None:
    """A table that has one holds whole numbers as floats."""
    puzzles: list[dict[str, Any]] = [dict(row) for row in PUZZLES]
    puzzles[0]["target"], puzzles[1]["nums"], puzzles[12]["target"] = None, None, float("nan")
    puzzles[13]["nums"], puzzles[3]["target"] = [14, None, 40], 23.0
    data = with_source(made := folders(write, tmp_path, puzzles, {
        split: [{"query": "q", "completion": "c"}, {"query": None, "completion": "c"}] for split in ("train", "test")}),
        {**made.source.model_dump(), "train": 6})
    summary = countdown.build(data, tmp_path)
    assert summary["left_out"] == {
        "test rows without numbers or target": 1, "validation rows without numbers or target": 1,
        "validation puzzles that are held out": 1, "train rows without numbers or target": 2,
        "train puzzles that are held out": 1, "repeated train puzzles": 1, "demonstrations without query or completion": 2}
    assert (summary["train"], summary["validation"], summary["test"]) == (6, 1, 2)
    metas = [example.meta for example in read_examples(tmp_path / "train.jsonl")]
    assert {"nums": [4, 5, 40], "target": 23} in metas and all(type(meta["target"]) is int for meta in metas)


@pytest.mark.parametrize("query", [
    "Using the numbers [40, 11, 12], create an equation that equals 30. For example (1 + 2) / 3.",
    "make 30 from 12 , 40 and 11", "12 40 11 30", "\uff13\uff10 : 11 12 40", "use [11, 12,\n40] make 30"])
def test_demonstrations_of_test_puzzles_are_left_out_and_counted(tmp_path: Path, query: str) -> None:
    others = [{"query": text, "completion": "c"} for text in ("use [11, 12, 40] make 31", "use [11, 12] make 30", "hi")]
    data = folders(write_json, tmp_path, PUZZLES, {
        "train": [*others, {"query": query, "completion": "c"}], "test": others})
    summary = countdown.build(data, tmp_path)
    assert summary["left_out"]["demonstrations of test puzzles"] == 1
    assert [row.prompt for row in read_demonstrations(tmp_path / "demonstrations_train.jsonl")] == [
        row["query"] for row in others]
