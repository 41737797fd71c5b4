"""What stands behind a table's numbers.

Which engines drew, runs they drew too far off, rows that the data left out, how text metrics were computed.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator

from eval.artifacts import Archive
from eval.entries import Entry
from rlfamily.quantities import Metric
from rlfamily.records import LEFT_OUT, SIGNATURES, Index, Manifest

USUAL = "torch"


def warned(archive: Archive, index: Index, made: Iterable[Entry]) -> list[Entry]:
    """`made` with a warning at each sampled number for every run behind it whose engine passed the table's limit."""
    limits = [cell.config.get("rollout", {}).get("mismatch_limit", math.inf) for cell in index.cells]
    limit = min(limits, default=math.inf)
    return [entry.warned(_disagreements(archive, entry, limit)) if entry.draws.size else entry for entry in made]


def footnote(archive: Archive, made: Iterable[Entry]) -> str:
    """Says what drew the responses behind a table, unless it was the usual engine, what the data left out, and what
    the text metrics in it depend on.
    """
    made = list(made)
    behind = list(_behind(archive, {key for entry in made for _, key in entry.runs}))
    engines = {engine for manifest in behind if (engine := _engine(manifest))}
    said = [f"Responses drawn with {' and '.join(sorted(engines))}."] if engines - {USUAL} else []
    left_out: defaultdict[str, set[str]] = defaultdict(set)
    for manifest in behind:
        if rows := manifest.summary.get(LEFT_OUT):
            left_out[", ".join(f"{number} {what}" for what, number in rows.items())].add(manifest.label)
    gone = sorted(f"Left out of {_few(labels)}: {what}." for what, labels in left_out.items())
    shown = {entry.metric.field for entry in made if isinstance(entry.metric, Metric)}
    signed = {f"{name}: {text}" for manifest in behind for name, text in manifest.summary.get(SIGNATURES, {}).items()
              if name in shown}
    return " ".join([*said, *gone, *([f"Text metrics: {'; '.join(sorted(signed))}."] if signed else [])])


def _few(labels: set[str]) -> str:
    """The first, and how many others: a table's runs often leave out the same rows."""
    return min(labels) + (f" and {len(labels) - 1} more" if len(labels) > 1 else "")


def _disagreements(archive: Archive, entry: Entry, limit: float) -> tuple[str, ...]:
    found = {}
    for manifest in _behind(archive, dict.fromkeys(key for _, key in entry.runs)):
        gap = manifest.summary.get("mismatch")
        if gap and (gap["kl"] is None or gap["kl"] > limit):
            size = "not finite" if gap["kl"] is None else f"{gap['kl']:.2g} nats a token"
            found[manifest.key] = (f"engine and trainer disagree: KL {size} at step {gap['step']} of {manifest.label} "
                                   f"(limit {limit:g})")
    return tuple(found.values())


def _behind(archive: Archive, keys: Iterable[str]) -> Iterator[Manifest]:
    """The committed artifacts of these keys, and what they were made from, each once."""
    waiting, seen = list(keys), set()
    while waiting:
        key = waiting.pop(0)
        manifest = None if key in seen else archive.manifest(key)
        seen.add(key)
        if manifest is not None:
            waiting += manifest.sources
            yield manifest


def _engine(manifest: Manifest) -> str:
    """What a stage drew responses with, "" when it drew none."""
    rollout = manifest.config.get("rollout")
    return str(rollout["engine"] if rollout else manifest.config.get("engine", ""))
