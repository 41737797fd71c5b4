"""Local JSON and CSV files: every cell is the text it was, and what cannot be read is one line with the file's name."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import datasets
import pytest

from rlfamily.errors import UserError
from rlfamily.tasks.support import hub, local, problem_sets


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def written(tmp_path: Path, content: str | bytes, name: str = "train.jsonl") -> Path:
    folder = tmp_path / "set"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def rows(folder: Path, split: str = "train") -> list[tuple[str, str]]:
    source = problem_sets.ProblemSet(path=str(folder), revision="main", split=split, problem="problem", answer="answer", boxed=False)
    return problem_sets.rows(source, "task.source.training", Counter())


# as a JSON file has it, and as it must come out
CELLS = [
    ('"2024-01-05"', "2024-01-05"), ('"2023-12-31T10:00:00Z"', "2023-12-31T10:00:00Z"), ('"10:30"', "10:30"),
    ("9007199254740993", "9007199254740993"), ("0.5", "0.5"), ("0.50", "0.50"), ("1e-7", "1e-7"), ("1E400", "1E400"),
    ("123456789012345678901234567890", "123456789012345678901234567890"), ("9" * 5000, "9" * 5000), ('"007"', "007"),
    ('"NA"', "NA"), ('"null"', "null"), ('"é\\u00e9"', "éé"), ('"a\\u2028b"', "a\u2028b"), ("-0.0", "-0.0"),
]


@pytest.mark.parametrize("form", ["lines", "list", "pretty", "bom", "crlf"])
def test_json_cells_are_the_text_they_were(tmp_path: Path, form: str) -> None:
    objects = [f'{{"problem": "p{place}", "answer": {cell}}}' for place, (cell, _) in enumerate(CELLS)]
    text = {"lines": "\n".join(objects), "list": f"[{', '.join(objects)}]", "bom": "\ufeff" + "\n".join(objects),
            "pretty": "\n".join(one.replace("{", "{\n ").replace(", ", ",\n ") for one in objects),
            "crlf": "\r\n\r\n".join(objects)}[form]
    folder = written(tmp_path, text, "train.json" if form in ("list", "pretty") else "train.jsonl")
    assert rows(folder) == [(f"p{place}", expected) for place, (_, expected) in enumerate(CELLS)]


def test_table_cells_are_the_text_they_were(tmp_path: Path) -> None:
    cells = ["2024-01-05", "9007199254740993", "0.50", "007", "NA", "1e5", "True", "a, b", 'say "x"', "two\nlines", "é"]
    quoted = ["\"" + cell.replace('"', '""') + "\"" for cell in cells]
    for name, sign, bom in (("train.csv", ",", "\ufeff"), ("train.tsv", "\t", "")):
        text = f"{bom}answer{sign}problem\r\n" + "".join(f"{cell}{sign}p{place}\r\n" for place, cell in enumerate(quoted))
        folder = written(tmp_path / name, text + f"{sign}empty\r\n", name)
        assert rows(folder) == [(f"p{place}", cell) for place, cell in enumerate(cells)]


def test_a_table_may_have_lines_of_any_end_long_cells_short_lines_and_blank_ones(tmp_path: Path) -> None:
    long = "x" * 200_000  # the library's own limit is 131,072
    text = f"answer,problem,more\r1,a\r\r2,b,c\r{long},d,\r"
    assert rows(written(tmp_path, text, "train.csv")) == [("a", "1"), ("b", "2"), ("d", long)]


def test_cells_that_are_not_there_are_empty(tmp_path: Path) -> None:
    lines = [{"problem": "a", "answer": 1}, {"problem": "b"}, {"answer": 2}, {"problem": "c", "answer": None}]
    assert rows(written(tmp_path, "\n".join(map(json.dumps, lines)) + '\n{"problem": "d", "answer": NaN}')) == [("a", "1")]


def test_files_of_a_split_are_those_of_the_library(tmp_path: Path) -> None:
    folder = written(tmp_path, '{"problem": "a", "answer": "1"}', "train-0.jsonl")
    (folder / "train-1.jsonl").write_text('{"problem": "b", "answer": "2"}')
    (folder / "test.jsonl").write_text('{"problem": "c", "answer": "3"}')
    assert (rows(folder), rows(folder, "test")) == ([("a", "1"), ("b", "2")], [("c", "3")])
    with pytest.raises(UserError, match="no files of split 'validation', only of train, test"):
        rows(folder, "validation")


@pytest.mark.parametrize(("name", "content", "cause"), [
    ("train.jsonl", b"", "'train.jsonl' holds no rows"), ("train.csv", b"", "'train.csv' holds no rows"),
    ("train.csv", b"problem,answer\n", "'train.csv' holds no rows"), ("train.json", b"[]", "'train.json' holds no rows"),
    ("train.jsonl", '{"problem": "é"}'.encode("latin-1"), "'train.jsonl' is not UTF-8 (byte 14): save it as UTF-8"),
    ("train.csv", "problem\né".encode("utf-16"), "'train.csv' is not UTF-8 (byte 1)"),
    ("train.jsonl", b'{"problem": "a"}\n["b"]', "'train.jsonl': line 2 holds"),
    ("train.jsonl", b'{"problem": "a"}\n{"problem": ', "'train.jsonl': Expecting value: line 2 column 13"),
    ("train.jsonl", b"[" * 100_000, "'train.jsonl': "),
    ("train.csv", b"problem,answer\n1,2,3\n", "'train.csv': line 2 has 3 cells under 2 columns"),
    ("train.csv", b"problem,problem\n1,2\n", "'train.csv': column 'problem' is there twice"),
    ("train.csv", b'problem,answer\n"1,2\n', "'train.csv': unexpected end of data"),
])
def test_what_cannot_be_read_is_one_line(tmp_path: Path, name: str, content: bytes, cause: str) -> None:
    with pytest.raises(UserError) as caught:
        rows(written(tmp_path, content, name))
    line = str(caught.value)
    assert line.startswith("task.source.training.path: dataset") and f"cannot be read [{cause}" in line and "\n" not in line


def test_a_written_number_is_a_number() -> None:
    number = local.Written("0.50")
    assert (number, str(number), f"{number + 1}") == (0.5, "0.50", "1.5") and isinstance(number, float)
    source = hub.HubDataset(path="x", revision="main")
    assert hub.text(local.Written("1e400"), source, "answer", 0, "key") == "1e400"
