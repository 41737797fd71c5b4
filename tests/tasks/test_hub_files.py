"""Files as people have them: empty cells, damaged archives, other columns, other types, no network."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest

from rlfamily.errors import UserError
from rlfamily.tasks.support import hub, problem_sets

ROWS = "".join(json.dumps({"problem": f"What is {i} + 1?", "answer": str(i + 1)}) + "\n" for i in range(500)).encode()


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def problems(folder: Path, boxed: bool = False) -> problem_sets.ProblemSet:
    return problem_sets.ProblemSet(path=str(folder), revision="main", split="train", problem="problem", answer="answer",
                                   boxed=boxed)


def parquet(folder: Path, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "train.parquet")
    return folder


NAN = float("nan")


@pytest.mark.parametrize(("rows", "kept"), [
    ([("1+1?", "2"), (None, "9"), ("2+2?", None)], [("1+1?", "2")]),
    ([("a", 1.5), ("b", NAN), ("c", None)], [("a", "1.5")]),
    ([("a", "1"), (" ", "2"), ("c", "  ")], [("a", "1")]),
    ([("a", ["1", None]), ("b", [None]), ("c", [])], [("a", "1")]),
])
def test_rows_with_an_empty_cell_are_left_out_and_counted(tmp_path: Path, rows: Any, kept: Any) -> None:
    folder = parquet(tmp_path / "set", [{"problem": problem, "answer": answer} for problem, answer in rows])
    left_out: Counter[str] = Counter()
    assert problem_sets.rows(problems(folder), "task.source.training", left_out) == kept
    assert left_out == {"rows of task.source.training without problem or answer": len(rows) - len(kept)}


def refusal(folder: Path, **columns: str) -> str:
    with pytest.raises(UserError) as error:
        problem_sets.rows(problems(folder).model_copy(update=columns), "task.source.training", Counter())
    assert "\n" not in str(error.value) and str(error.value).startswith("task.source.training.")
    return str(error.value)


def _zip(path: Path) -> bytes:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train.jsonl", ROWS)
    return path.read_bytes()


@pytest.mark.parametrize(("name", "content"), [
    ("train.jsonl.gz", gzip.compress(ROWS)), ("train.zip", None), ("train.parquet", None), ("train.json", b"{ not json"),
    ("train.parquet", b"no parquet at all, only text"), ("train.jsonl.gz", b"not gz at all"),
])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes | None) -> None:
    folder = parquet(tmp_path / "set", [{"problem": f"p{i}", "answer": "1"} for i in range(500)])
    if content is None:
        content = _zip(tmp_path / "a.zip") if name.endswith("zip") else (folder / "train.parquet").read_bytes()
    (folder / "train.parquet").unlink()
    (folder / name).write_bytes(content[:len(content) // 2])
    line = refusal(folder)
    assert "cannot be read" in line and name in line


def test_a_script_is_refused(tmp_path: Path) -> None:
    (tmp_path / "my_set").mkdir()
    (tmp_path / "my_set" / "my_set.py").write_text("import datasets")
    assert "my_set" in refusal(tmp_path / "my_set")


def test_a_missing_column_names_the_nearest(tmp_path: Path) -> None:
    folder = parquet(tmp_path / "set", [{"problems": "p", "answer": "1"}])
    assert "no column 'problem' (did you mean 'problems'?)" in refusal(folder)


@pytest.mark.parametrize("column", ["problem", "answer"])
def test_what_is_no_text_is_named_with_its_column(tmp_path: Path, column: str) -> None:
    chat = [{"role": "user", "content": "1+1?"}]
    folder = parquet(tmp_path / "set", [{"problem": "p", "answer": "1"} | {column: chat if column == "problem" else {"a": 1}}])
    assert f"column '{column}' of '{folder}' holds" in refusal(folder)


def test_messages_in_place_of_a_dialogue(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="column 'chosen' of 'hh' holds messages in row 3, not text"):
        hub.text([{"role": "user", "content": "hi"}], hub.HubDataset(path="hh", revision="main"), "chosen", 3, "key")


def test_a_revision_without_a_network_is_unresolved(monkeypatch: pytest.MonkeyPatch) -> None:
    class ConnectError(Exception):
        """An HTTP library's own, which is no OSError."""

    def fail(*arguments: Any, **options: Any) -> None:
        raise ConnectError("[Errno -2] Name or service not known")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", fail)
    assert hub.resolved_revision(hub.HubDataset(path="openai/gsm8k", revision="main")) == "unresolved"
