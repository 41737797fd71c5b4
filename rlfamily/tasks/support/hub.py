"""Read a dataset from the hub at a pinned revision, or from a local folder of parquet or json files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlfamily.errors import UserError, nearest
from rlfamily.examples import Example
from rlfamily.records import write_jsonl
from rlfamily.settings import Location, Strict

if TYPE_CHECKING:
    from datasets import Dataset

LOCAL, UNRESOLVED = "local folder", "unresolved"


class HubDataset(Strict):
    """A hub id at a revision (branch or commit id), or a local folder, for which the revision is not used."""

    path: Location
    revision: str


def load(source: HubDataset, split: str, columns: Sequence[str], key: str, folder: str | None = None) -> Dataset:
    """Return one split, memory-mapped, with `columns` alone. `key` is the config key to name in messages.

    `folder` is the part of the dataset to look in, where it has several.
    Raises UserError when the dataset cannot be read (offline, misspelt, damaged) or lacks a column.
    """
    import datasets  # late: it takes a second, and planning never needs it

    local = Path(source.path).is_dir()
    try:
        rows = datasets.load_dataset(
            source.path, data_dir=folder, revision=None if local else source.revision, split=split)
        if local:
            rows.data.validate(full=True)  # else text that is no UTF-8 fails when its row is read
    except Exception as error:  # a damaged file raises whatever its format's library does
        raise UserError(
            f"{key}.path: dataset '{source.path}' (split '{split}') cannot be read [{_cause(error)}"
            f"{_broken(source, split) if local else ''}]; check the name and the "
            f"network, or give a local folder of its parquet or json files: {key}.path=/some/folder"
        ) from error
    missing = [column for column in columns if column not in rows.column_names]
    if missing:
        raise UserError(f"{key}.path: dataset '{source.path}' has no column '{missing[0]}'"
                        f"{nearest(missing[0], rows.column_names)}, "
                        f"only {', '.join(rows.column_names)}: give a dataset with {', '.join(columns)}")
    return rows.select_columns(list(columns))


def _cause(error: BaseException) -> str:
    """What went wrong, from the error that began it: those around it say only that there was one."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:200] or type(error).__name__


def _broken(source: HubDataset, split: str) -> str:
    """The first file of a local folder that cannot be read by itself, as the end of a message."""
    import datasets

    formats = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv", ".gz": "json", ".zip": "json"}
    for file in sorted(Path(source.path).rglob("*")):
        if file.suffix in formats and file.is_file():
            try:
                datasets.load_dataset(formats[file.suffix], data_files=str(file), split="train")
            except Exception:  # as above
                return f", in '{file.relative_to(source.path)}'"
    return ""


def text(value: Any, source: HubDataset, column: str, row: int, key: str) -> str | None:
    """A cell as text; None for an empty one (null, NaN, nothing but blanks), whose row is to be left out and counted.

    Raises UserError for what is no text, such as a list of messages.
    """
    if value is None or value != value:  # NaN: what a table without a null writes for one
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        kind = "messages" if isinstance(value, list) and value and isinstance(value[0], dict) else type(value).__name__
        raise UserError(f"{key}: column '{column}' of '{source.path}' holds {kind} in row {row}, not text: "
                        "give a dataset whose column holds text")
    return str(value) if str(value).strip() else None


def resolved_revision(source: HubDataset) -> str:
    """Return the commit id that `source` stands for now; "local folder", or "unresolved" when the hub is away."""
    if Path(source.path).is_dir():
        return LOCAL
    if re.fullmatch(r"[0-9a-f]{40}", source.revision):
        return source.revision
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(source.path, revision=source.revision).sha)
    except Exception:  # offline, or no such server: a record, and nothing that the data depends on
        return UNRESOLVED


def token_counter(source: HubDataset, key: str) -> Callable[[str], int]:
    """Return a function that counts a text's tokens. `source` is a model's id at a revision, or a local folder.

    Raises UserError when its tokenizer cannot be read; `key` is the config key to name.
    """
    from transformers import AutoTokenizer

    local = Path(source.path).is_dir()
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source.path, revision=None if local else source.revision, trust_remote_code=False)
    except Exception as error:  # as `load`
        raise UserError(f"{key}.path: tokenizer of '{source.path}' cannot be read [{_cause(error)}]; check the name "
                        f"and the network, or give a local folder: {key}.path=/some/folder") from error
    return lambda text: len(tokenizer(text)["input_ids"])


def write_splits(out: Path, splits: Mapping[str, Sequence[Example]], wanted: Mapping[str, int], path: str) -> None:
    """Write the examples of each split, and the empty demonstrations of a task that has none.

    Raises UserError when a split has fewer examples than `wanted`; `path` is the dataset to name.
    """
    for split, examples in splits.items():
        if len(examples) < wanted[split]:
            raise UserError(f"task.source.{split}: {wanted[split]} prompts asked, but '{path}' has only "
                            f"{len(examples)} that pass the filter and are in no other split: lower it")
        write_jsonl(out / f"{split}.jsonl", (asdict(example) for example in examples))
    for name in ("demonstrations_train", "demonstrations_validation"):
        (out / f"{name}.jsonl").touch()
