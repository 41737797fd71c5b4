"""Read a dataset from the hub at a pinned revision, or from a local folder of parquet or json files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rlfamily.errors import UserError
from rlfamily.examples import Example
from rlfamily.records import write_jsonl
from rlfamily.settings import Strict

if TYPE_CHECKING:
    from datasets import Dataset

LOCAL, UNRESOLVED = "local folder", "unresolved"


class HubDataset(Strict):
    """A hub id at a revision (branch or commit id), or a local folder, for which the revision is not used."""

    path: str
    revision: str


def load(source: HubDataset, split: str, columns: Sequence[str], key: str, folder: str | None = None) -> Dataset:
    """Return one split, memory-mapped, with `columns` alone. `key` is the config key to name in messages.

    `folder` is the part of the dataset to look in, where it has several.
    Raises UserError when the dataset cannot be read (offline, misspelt, damaged) or lacks a column.
    """
    import datasets  # late: it takes a second, and planning never needs it
    from datasets.exceptions import DatasetsError

    local = Path(source.path).is_dir()
    try:
        rows = datasets.load_dataset(
            source.path, data_dir=folder, revision=None if local else source.revision, split=split)
    except (OSError, ValueError, DatasetsError) as error:
        cause = " ".join(str(error).split())[:200]
        raise UserError(
            f"{key}.path: dataset '{source.path}' (split '{split}') cannot be read [{cause}]; check the name and the "
            f"network, or give a local folder of its parquet or json files: {key}.path=/some/folder"
        ) from error
    missing = [column for column in columns if column not in rows.column_names]
    if missing:
        raise UserError(f"{key}.path: dataset '{source.path}' has no column '{missing[0]}', "
                        f"only {', '.join(rows.column_names)}: give a dataset with {', '.join(columns)}")
    return rows.select_columns(list(columns))


def resolved_revision(source: HubDataset) -> str:
    """Return the commit id that `source` stands for now; "local folder", or "unresolved" when the hub is away."""
    if Path(source.path).is_dir():
        return LOCAL
    if re.fullmatch(r"[0-9a-f]{40}", source.revision):
        return source.revision
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(source.path, revision=source.revision).sha)
    except OSError:
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
    except (OSError, ValueError) as error:
        cause = " ".join(str(error).split())[:200]
        raise UserError(f"{key}.path: tokenizer of '{source.path}' cannot be read [{cause}]; check the name and the "
                        f"network, or give a local folder: {key}.path=/some/folder") from error
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
