"""What a file that is no UTF-8, or holds nothing, comes to."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from rlfamily.errors import UserError
from rlfamily.tasks.support import hub


@pytest.mark.parametrize("name", ["train.jsonl", "train.json", "train.csv", "train.parquet"])
@pytest.mark.parametrize("content", [b"", '{"a": "é"}\n'.encode("latin-1"), '{"a": "b"}'.encode("utf-16")])
def test_an_empty_file_and_another_encoding_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        hub.load(hub.HubDataset(path=str(folder), revision="main"), "train", ("a",), "task.source.training")
    assert "\n" not in str(error.value) and str(error.value).startswith("task.source.training.path: ")
