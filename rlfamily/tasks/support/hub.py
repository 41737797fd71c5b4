"""Read a dataset from the hub at a pinned revision, or from a local folder of parquet, json or csv files."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlfamily.errors import UserError, hub_refusal, nearest
from rlfamily.examples import Example
from rlfamily.records import write_jsonl
from rlfamily.settings import Location, Strict
from rlfamily.tasks.support import local

LOCAL, UNRESOLVED = "local folder", "unresolved"


class HubDataset(Strict):
    """A hub id at a revision (branch or commit id), or a local folder, for which the revision is not used."""

    path: Location
    revision: str


def load(source: HubDataset, split: str, columns: Sequence[str], key: str, folder: str | None = None) -> Sequence[Any]:
    """Return one split as rows with `columns` alone. `key` is the config key to name in messages.

    `folder` is the part of the dataset to look in, where it has several. JSON and CSV files, local or of the hub, are
    read as they are written (`local`), everything else by the library, memory-mapped.
    Raises UserError when the dataset cannot be read (offline, misspelt, damaged) or lacks a column.
    """
    try:
        rows: Any = _as_written(source, split, folder)
        own = rows is not None
        rows = rows if own else _library(source, split, folder)
    except Exception as error:  # a damaged file raises whatever its format's library does
        if refused := hub_refusal(error, source.revision):
            raise UserError(f"{key}.path: dataset '{source.path}' {refused}") from error
        raise UserError(
            f"{key}.path: dataset '{source.path}' (split '{split}') cannot be read [{_cause(error)}"
            f"{_broken(source) if Path(source.path).is_dir() else ''}]; check the name and the "
            f"network, or give a local folder of its parquet or json files: {key}.path=/some/folder"
        ) from error
    there = list(dict.fromkeys(name for row in rows for name in row)) if own else rows.column_names
    missing = [column for column in columns if column not in there]
    if missing:
        raise UserError(f"{key}.path: dataset '{source.path}' has no column '{missing[0]}'"
                        f"{nearest(missing[0], there)}, "
                        f"only {', '.join(there)}: give a dataset with {', '.join(columns)}")
    if own:
        return [{column: row.get(column) for column in columns} for row in rows]
    return rows.select_columns(list(columns))


def _as_written(source: HubDataset, split: str, folder: str | None) -> list[dict[str, Any]] | None:
    """The rows of JSON or CSV files; None where there are others. The library says which is of which split.

    Files of the hub are fetched once into its own cache.
    """
    import datasets  # late: it takes a second, and planning never needs it
    from datasets.packaged_modules.csv.csv import Csv
    from datasets.packaged_modules.json.json import Json

    builder = _builder(source, folder)
    if not isinstance(builder, Json | Csv) or not split.isidentifier():
        return None
    files = builder.config.data_files
    if split not in files:
        raise local.Unreadable(f"no files of split '{split}', only of {', '.join(map(str, files))}")
    return local.read([Path(path) for path in datasets.DownloadManager().download(list(files[split]))])


def _builder(source: HubDataset, folder: str | None) -> Any:
    """What the library would read the dataset with; where the hub is away, its files in the hub's own cache."""
    import datasets
    from datasets.packaged_modules.cache.cache import Cache

    if Path(source.path).is_dir():
        return datasets.load_dataset_builder(source.path, data_dir=folder)
    try:
        found = datasets.load_dataset_builder(source.path, data_dir=folder, revision=source.revision)
    except Exception:  # as `load`
        if (fetched := _fetched(source, folder)) is None:
            raise
        return fetched
    # A Cache holds what the library once made of the files, with the types that it guessed.
    return (isinstance(found, Cache) and _fetched(source, folder)) or found


def _fetched(source: HubDataset, folder: str | None) -> Any:
    """What reads the files that were fetched from the hub once; None where there are none."""
    import datasets
    from huggingface_hub import snapshot_download

    with suppress(FileNotFoundError):
        here = snapshot_download(source.path, repo_type="dataset", revision=source.revision, local_files_only=True)
        return datasets.load_dataset_builder(here, data_dir=folder)
    return None


def _library(source: HubDataset, split: str, folder: str | None) -> Any:
    import datasets

    here = Path(source.path).is_dir()
    rows = datasets.load_dataset(source.path, data_dir=folder, revision=None if here else source.revision, split=split)
    if here:
        rows.data.validate(full=True)  # else text that is no UTF-8 fails when its row is read
    return rows


def _cause(error: BaseException) -> str:
    """What went wrong, from the error that began it: those around it say only that there was one."""
    while error.__cause__ is not None and not isinstance(error, local.Unreadable):
        error = error.__cause__
    return " ".join(str(error).split())[:200] or type(error).__name__


def _broken(source: HubDataset) -> str:
    """The first parquet file or archive of a local folder that is damaged, as the end of a message."""
    import datasets

    for file in sorted(Path(source.path).rglob("*")):
        try:
            if file.suffix == ".parquet":
                datasets.load_dataset("parquet", data_files=str(file), split="train")
            if file.suffix == ".zip":
                zipfile.ZipFile(file).close()
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
