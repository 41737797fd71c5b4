"""Results as pandas frames, for notebooks: `load("results").tables`, `.runs`, `.metrics`, `.samples`.

pandas is imported when the first frame is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlfamily.errors import UserError, nearest
from rlfamily.records import CellEntry, Index, Layout, read_jsonl
from rlfamily.variants import NOTHING as ELSEWHERE

if TYPE_CHECKING:
    import pandas as pd

MEASURED = ["published_std", "reproduced", "ci_low", "ci_high", "n"]
LABELS = ["experiment", "model", "row", "column", "seed"]


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    """Numbers as numbers, NaN where a place is empty; text as it was before the csv marked it as no formula."""
    import pandas as pd

    measured = {name: pd.to_numeric(frame[name], errors="coerce") for name in MEASURED if name in frame}
    frame = frame.apply(lambda column: column.str.replace(r"^'(?=[\s']*[=+\-@])", "", regex=True))
    for name, values in measured.items():
        text = values.isna() & (frame[name] != "")  # a setting may be text
        frame[name] = frame[name].where(text, values) if text.any() else values
    return frame.where(frame != "", float("nan"))


class Results:
    """What stands under a results root, of some `experiments` or of all; a frame is read once, when asked for."""

    def __init__(self, root: Path | str, experiments: tuple[str, ...] = ()) -> None:
        self.layout = Layout(root)
        self.experiments = experiments

    @cached_property
    def tables(self) -> pd.DataFrame:
        """Every row of results/tables/*.csv: one printed number each, published beside reproduced."""
        import pandas as pd

        paths = sorted(path for path in self.layout.tables.glob("*.csv")
                       if not self.experiments or path.stem in self.experiments)
        if not paths:
            raise UserError(f"results: no tables under {self.layout.tables}: run make report first")
        frames = [_typed(pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")) for path in paths]
        return pd.concat([frame for frame in frames if len(frame)], ignore_index=True)

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One line a cell: its labels, status, config names (task_config, ..), artifact keys (train, score, ..), what
        its run cost, and every setting in which the cells differ, under its dotted name."""
        cells = [(name, index, cell) for name, index, cell in self._cells()]
        settings = _differing([dict(_flat(cell.config)) for _, _, cell in cells])
        return self._frame(iter([self._run(*cell) | own for cell, own in zip(cells, settings, strict=True)]))

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """One line a training step of every finished run; `run` is its key, as in `runs.train`."""
        return self._frame(self._rows("train", "metrics.jsonl"))

    @cached_property
    def samples(self) -> pd.DataFrame:
        """Responses kept while training (stage train) and all held-out ones (stage score), each once, with rewards.

        `run` is the key of the artifact, as in `runs.train` and `runs.score`: what a cell shows is a join.
        """
        return self._frame(row for stage, file in (("train", "samples.jsonl"), ("score", "scores.jsonl"))
                           for row in self._rows(stage, file))

    def of(self, *experiments: str) -> Results:
        """The same of some experiments alone. Raises UserError for one that is not there."""
        there = [path.stem for path in self.layout.index.glob("*.json")]
        for name in experiments:
            if name not in there:
                raise UserError(f"results: no '{name}' under {self.layout.index}{nearest(name, there)}")
        return Results(self.layout.root, experiments)

    def _frame(self, rows: Iterator[dict[str, Any]]) -> pd.DataFrame:
        import pandas as pd

        found = list(rows)
        return pd.DataFrame(found) if found else pd.DataFrame(columns=LABELS)

    def _cells(self) -> Iterator[tuple[str, Index, CellEntry]]:
        for path in sorted(self.layout.index.glob("*.json")):
            if self.experiments and path.stem not in self.experiments:
                continue
            try:
                index = Index.model_validate_json(path.read_text("utf-8-sig"))
            except ValueError as error:
                raise UserError(f"{path}: not a readable index: run make reproduce again, or delete it") from error
            for cell in index.cells:
                yield path.stem, index, cell

    def _run(self, name: str, index: Index, cell: CellEntry) -> dict[str, Any]:
        line: dict[str, Any] = dict(zip(LABELS, (name, cell.model, cell.row, cell.column, cell.seed), strict=True))
        line |= {"scale": index.scale, "status": cell.status, "reason": cell.reason, **cell.stages}
        line |= {f"{group}_config": chosen for group, chosen in cell.names.items()}
        key = cell.stages.get("train", "")
        if key and self.layout.committed(key):
            manifest = self.layout.manifest(key)
            line |= {"seconds": manifest.seconds, "commit": manifest.commit, "started": manifest.started}
        return line

    def _rows(self, stage: str, file: str) -> Iterator[dict[str, Any]]:
        """Rows of every artifact of a stage, once, under the labels of the first cell that shows it."""
        first: dict[str, CellEntry] = {}
        for _, _, cell in self._cells():
            if stage in cell.stages:
                first.setdefault(cell.stages[stage], cell)
        for key, cell in first.items():
            path = self.layout.object(key) / file
            if path.is_file():
                labels = {"run": key, "model": cell.model, "row": cell.row, "seed": cell.seed, "stage": stage}
                for row in read_jsonl(path):
                    yield labels | row


def _flat(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by their dotted names."""
    for name, value in config.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _differing(settings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each cell the settings that are not the same in all, those apart that change no number."""
    names = dict.fromkeys(name for one in settings for name in one if name != "seed"
                          and name.partition(".")[0] not in ELSEWHERE)
    chosen = [name for name in names if len({repr(one.get(name)) for one in settings}) > 1]
    return [{name: one.get(name) for name in chosen} for one in settings]


def load(root: Path | str = "results") -> Results:
    """Open a results folder. Raises UserError (one line) when nothing has been run there."""
    results = Results(os.path.expanduser(root))  # a notebook has no shell that would
    if not any(results.layout.index.glob("*.json")):
        raise UserError(f"results: nothing under {results.layout.index}: run make reproduce TABLE=topr_tab2 first")
    return results
