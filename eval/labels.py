"""Do a paper's numbers and claims speak of this table? Asked before anything runs.

Published numbers are looked up by their labels, claims by ours: a misspelt one would be left out without a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from eval import claims, verdicts
from eval.artifacts import Archive
from eval.checks import At, Side, Unavailable
from eval.statistics import Floats
from rlfamily import experiment
from rlfamily.errors import UserError, nearest
from rlfamily.experiment import EXPERIMENTS, Experiment

CSV = ("method", "task_or_benchmark", "metric", "model")


def require_known(specs: Mapping[str, Experiment], experiments: Path = EXPERIMENTS) -> None:
    """Refuse tables whose published numbers are missing, or which they or claims do not fit. Raises UserError."""
    archive, known = Archive(Path(), experiments), dict(specs)
    for name, spec in specs.items():
        _require_published(name, spec, archive)
    for claim in claims.load(experiments / "claims"):
        if not specs.keys().isdisjoint(claim.tables):
            _require_claim(claim, known, experiments)


def _require_published(name: str, spec: Experiment, archive: Archive) -> None:
    rows = archive.published_rows(spec.published)
    if not rows:
        return
    place = f"published/{spec.published}"
    if missing := [column for column in (*CSV, "value", "std", "note") if column not in rows[0]]:
        raise UserError(f"{place}: no column '{missing[0]}'{nearest(missing[0], rows[0])}")
    labels = {row.published for row in spec.rows.values() if row.published}
    known: dict[str, Iterable[str]] = {
        "method": labels, "model": spec.backbones,
        "task_or_benchmark": [*spec.columns, *(one.column for one in spec.derived)],
        "metric": [*(one.published or one.name for one in spec.metrics),
                   *(one.published or one.metric for one in spec.derived)]}
    for column in CSV:
        printed = {row[column] for row in rows}
        for label in sorted(printed - {*known[column]}):
            raise UserError(f"{place}: {column} '{label}' is nowhere in experiments/{name}.yaml"
                            f"{nearest(label, known[column])}: correct the one or the other")
    for label in sorted(labels - {row["method"] for row in rows}):
        raise UserError(f"experiments/{name}.yaml: {place} has no method '{label}'"
                        f"{nearest(label, {row['method'] for row in rows})}: correct `published` of that row")


def _require_claim(claim: claims.Claim, specs: dict[str, Experiment], experiments: Path) -> None:
    """Carry a claim out on a table whose every number is 1, of which only the labels count."""

    def known(at: At) -> dict[str, list[str]]:
        table = at["table"]
        if table not in specs:
            specs[table] = experiment.load(table, experiments)
        spec = specs[table]
        return {"row": [*spec.rows], "column": [*spec.columns, *(one.column for one in spec.derived)],
                "metric": [*(one.name for one in spec.metrics), *(one.metric for one in spec.derived)],
                "model": [*spec.backbones]}

    def number(at: At) -> Floats:
        for what, names in known(at).items():
            if what in at and at[what] not in names:
                raise UserError(f"claim '{claim.id}': {at['table']} has no {what} '{at[what]}'"
                                f"{nearest(at[what], names)}: correct experiments/claims or the table")
        return np.ones(1)

    def marked(table: str) -> bool:
        raise Unavailable(verdicts.NOT_CHECKABLE, "")

    claims.evaluate(claim.model_copy(update={"published": "not asked"}), Side(number, lambda table: [], marked),
                    Side(number, lambda table: known({"table": table})["metric"], marked))
