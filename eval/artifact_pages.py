"""A page for every artifact: the cells it serves, its config, curves, samples, scores, manifest and relatives."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup

from eval.artifacts import Archive
from eval.html import render
from eval.sparklines import sparkline
from eval.values import BAD, number_of
from rlfamily.records import CellEntry, Failure, Manifest

CURVES = ["pg_loss", "loss", "mean_valid", "reward", "mean_format", "entropy", "weight_mean", "clip_fraction", "kl_old",
          "kl_ref_k3", "grad_norm", "length", "truncated", "mean_gold", "mismatch_mean", "mismatch_max", "mismatch_kl",
          "importance_mean", "importance_truncated"]
FIRST, LAST = 4, 8
PER_MODE = 6


@dataclass(frozen=True)
class Lineage:
    """Every artifact behind the indexes: which cells name it, what it was made from, what was made from it.

    `curves` are those drawn so far, by run: the pages of what was made from a run show them too.
    """

    manifests: dict[str, Manifest]
    failures: dict[str, Failure]
    cells: dict[str, list[tuple[str, CellEntry]]]
    users: dict[str, list[str]]
    curves: dict[str, list[Markup]] = field(default_factory=dict)

    @property
    def pages(self) -> list[str]:
        """Keys that get a page: committed or failed, sorted by kind and label."""
        keys = sorted({*self.manifests, *self.failures})
        return sorted(keys, key=lambda key: (self.kind(key), self.label(key), key))

    @property
    def by_kind(self) -> dict[str, list[str]]:
        """The pages' keys, by stage kind."""
        groups: dict[str, list[str]] = defaultdict(list)
        for key in self.pages:
            groups[self.kind(key)].append(key)
        return dict(groups)

    def kind(self, key: str) -> str:
        """Stage kind of an artifact or a failure."""
        return (self.manifests.get(key) or self.failures[key]).kind

    def label(self, key: str) -> str:
        """What the stage called itself."""
        return (self.manifests.get(key) or self.failures[key]).label

    @classmethod
    def of(cls, archive: Archive) -> Lineage:
        """Follow every index to its artifacts, and these to all they were made from."""
        cells: dict[str, list[tuple[str, CellEntry]]] = defaultdict(list)
        for name, index in archive.indexes():
            for cell in index.cells:
                for key in cell.stages.values():
                    cells[key].append((name, cell))
        manifests, users, open_keys = {}, defaultdict(list), sorted(cells)
        while open_keys:
            key = open_keys.pop()
            manifest = archive.manifest(key)
            if key in manifests or manifest is None:
                continue
            manifests[key] = manifest
            for source in manifest.sources:
                users[source].append(key)
                open_keys.append(source)
        return cls(manifests, _failures(archive, dict(cells)), dict(cells),
                   {key: sorted(set(found)) for key, found in users.items()})


def _failures(archive: Archive, cells: dict[str, list[tuple[str, CellEntry]]]) -> dict[str, Failure]:
    """Failures that still stand. Once no cell suffers, what is left on disk concerns stages nobody asks for now."""
    if not any(cell.status in ("failed", "blocked") for named in cells.values() for _, cell in named):
        return {}
    paths = sorted((archive.layout.artifacts / "failed").glob("*.json"))
    return {path.stem: Failure.model_validate_json(path.read_text("utf-8"))
            for path in paths if archive.manifest(path.stem) is None}


def artifact_page(archive: Archive, lineage: Lineage, key: str) -> str:
    """The page of one artifact, or of one failed stage."""
    cells = lineage.cells.get(key, [])
    names = {"lineage": lineage, "key": key, "cells": cells,
             "cell_config": _pretty(cells[0][1].config) if cells else ""}
    manifest = lineage.manifests.get(key)
    if manifest is None:
        return render("failure.html", failure=lineage.failures[key], **names)
    trained = _trained(lineage, key)
    if trained and trained not in lineage.curves:
        lineage.curves[trained] = _curves(archive, trained)
    return render(
        "run.html", manifest=manifest, config=_pretty(manifest.config), versions=_pretty(manifest.versions),
        machine=_pretty(manifest.machine), hardware=_pretty(manifest.hardware), summary=_pretty(manifest.summary),
        curves=lineage.curves.get(trained, []), trained=trained, costs=_costs(archive, key),
        scores=_scores(archive, key), samples=_samples(archive, key), score_fields=score_fields, **names)


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) if value else ""


def _trained(lineage: Lineage, key: str) -> str:
    """The run whose curves belong on this page: the artifact itself, or the run it was made from; "" when neither."""
    candidates = [key, *lineage.manifests[key].sources]
    return next((one for one in candidates if one in lineage.manifests and lineage.kind(one) == "train"), "")


def _curves(archive: Archive, key: str) -> list[Markup]:
    rows = archive.rows(key, "metrics.jsonl")
    charts = []
    for name in CURVES:
        points = [(number_of(row["step"]), number_of(row[name])) for row in rows if name in row and "step" in row]
        if points:
            steps, values = np.array(points, dtype=float).T
            charts.append(sparkline(name, steps, values))
    return charts


def _costs(archive: Archive, key: str) -> dict[str, float]:
    """Tokens and seconds by phase, summed over the steps of a run."""
    totals: dict[str, float] = defaultdict(float)
    for row in archive.rows(key, "metrics.jsonl"):
        totals["tokens"] += number_of(row.get("tokens", 0))
    for row in archive.rows(key, "timings.jsonl"):
        for name, value in row.items():
            if name.startswith("seconds_"):
                totals[name] += number_of(value)
    return {name: total for name, total in totals.items() if math.isfinite(total)}


def _scores(archive: Archive, key: str) -> list[dict[str, Any]]:
    """Mean reward, its parts and length, a row a decoding mode."""
    modes: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in archive.rows(key, "scores.jsonl"):
        modes[_mode(row)].append(row)
    return [{"mode": mode, "n": len(rows)} | {
        name: float(np.mean([number_of(row[name]) for row in rows])) for name in score_fields(rows)}
        for mode, rows in sorted(modes.items())]


def _mode(row: dict[str, Any]) -> str:
    """How a response was decoded; of a line that is no row that it is none."""
    return BAD if BAD in row else str(row.get("mode", "no mode"))


def score_fields(rows: list[dict[str, Any]]) -> list[str]:
    """What was measured of every response: its reward first, then the parts of it, then its length."""
    there = [name for name in rows[0] if name not in ("item", "draw", "step", "truncated", BAD)
             and any(isinstance(row.get(name), int | float) for row in rows) and all(name in row for row in rows)]
    return sorted(there, key=lambda name: (name != "reward", name == "length", name))


def _samples(archive: Archive, key: str) -> list[dict[str, Any]]:
    """Some responses to read: of a run the first and the last ones, of a score stage some of each mode."""
    trained = list(archive.texts(key, "samples.jsonl"))
    if trained:
        return trained if len(trained) <= FIRST + LAST else trained[:FIRST] + trained[-LAST:]
    modes: dict[str, list[int]] = defaultdict(list)
    for position, row in enumerate(archive.rows(key, "scores.jsonl")):
        if len(modes[_mode(row)]) < PER_MODE:
            modes[_mode(row)].append(position)
    chosen = [position for mode in sorted(modes) for position in modes[mode]]
    return archive.texts_at(key, "scores.jsonl", chosen) if chosen else []
