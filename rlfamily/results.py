"""Results as pandas frames, for notebooks: `load("results").tables`, `.runs`, `.metrics`, `.samples`.

pandas is imported when the first frame is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlfamily.errors import UserError
from rlfamily.records import CellEntry, Index, Layout, read_jsonl

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
    """What stands under a results root; every frame is read once, and only when asked for."""

    def __init__(self, root: Path | str) -> None:
        self.layout = Layout(root)

    @cached_property
    def tables(self) -> pd.DataFrame:
        """Every row of results/tables/*.csv: one printed number each, published beside reproduced."""
        import pandas as pd

        paths = sorted(self.layout.tables.glob("*.csv"))
        if not paths:
            raise UserError(f"results: no tables under {self.layout.tables}: run make report first")
        frames = [_typed(pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")) for path in paths]
        return pd.concat([frame for frame in frames if len(frame)], ignore_index=True)

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One line a cell: its labels, status, config names (task_config, ..), artifact keys, and its run's cost."""
        return self._frame(self._run(name, index, cell) for name, index, cell in self._cells())

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """One line a training step of every finished run, labelled with experiment, row, column and seed."""
        return self._frame(self._rows("train", "metrics.jsonl"))

    @cached_property
    def samples(self) -> pd.DataFrame:
        """Responses kept while training (stage train) and all held-out ones (stage score), with their rewards."""
        return self._frame(row for stage, file in (("train", "samples.jsonl"), ("score", "scores.jsonl"))
                           for row in self._rows(stage, file))

    def _frame(self, rows: Iterator[dict[str, Any]]) -> pd.DataFrame:
        import pandas as pd

        found = list(rows)
        return pd.DataFrame(found) if found else pd.DataFrame(columns=LABELS)

    def _cells(self) -> Iterator[tuple[str, Index, CellEntry]]:
        for path in sorted(self.layout.index.glob("*.json")):
            index = Index.model_validate_json(path.read_text("utf-8-sig"))
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
        for name, _, cell in self._cells():
            path = self.layout.object(cell.stages.get(stage, "none")) / file
            if path.is_file():
                labels = dict(zip(LABELS, (name, cell.model, cell.row, cell.column, cell.seed), strict=True))
                for row in read_jsonl(path):
                    yield labels | {"stage": stage} | row


def load(root: Path | str = "results") -> Results:
    """Open a results folder. Raises UserError (one line) when nothing has been run there."""
    results = Results(os.path.expanduser(root))  # a notebook has no shell that would
    if not any(results.layout.index.glob("*.json")):
        raise UserError(f"results: nothing under {results.layout.index}: run make reproduce TABLE=topr_tab2 first")
    return results
