"""How long stages will take, judged by finished ones; and the plan: what exists, what is missing, what it may cost."""

from __future__ import annotations

import json
import os.path
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rlfamily.stages.graph import Node, topological
from rlfamily.stages.store import MANIFEST, Store

State = Literal["exists", "missing", "failed"]


class History:
    """Seconds that finished stages took, by kind. Reads every manifest once, at the first question."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._read = False
        self._seconds: defaultdict[str, list[tuple[str, float]]] = defaultdict(list)

    def seconds(self, node: Node) -> float | None:
        """Median seconds of finished stages of the node's kind, those with the most similar label; None without any.

        Similar means: the longest common beginning, so that neighbours in a table forecast each other.
        """
        if not self._read:
            self._load()
        finished = self._seconds[node.kind]
        if not finished:
            return None
        shared = [len(os.path.commonprefix([node.label, label])) for label, _ in finished]
        nearest = [seconds for (_, seconds), length in zip(finished, shared, strict=True) if length == max(shared)]
        return statistics.median(nearest)

    def add(self, node: Node, seconds: float) -> None:
        """A stage has finished after `seconds`."""
        self._seconds[node.kind].append((node.label, seconds))

    def _load(self) -> None:
        self._read = True
        for key in self._store.committed_keys():
            manifest = json.loads((self._store.layout.object(key) / MANIFEST).read_text("utf-8"))
            self._seconds[manifest["kind"]].append((manifest["label"], manifest["seconds"]))


@dataclass(frozen=True)
class PlanRow:
    """One stage of a plan. `seconds`: forecast of what is left to do, 0 when it exists, None when nothing is known."""

    label: str
    kind: str
    key: str
    state: State
    seconds: float | None


def plan(targets: Iterable[Node], root: Path | str) -> list[PlanRow]:
    """Every stage that `targets` are made of, inputs first, with its state and its forecast. Starts nothing."""
    store = Store(root)
    history = History(store)
    return [_row(node, store, history) for node in topological(targets)]


def _row(node: Node, store: Store, history: History) -> PlanRow:
    state = _state(node.key, store)
    seconds = 0.0 if state == "exists" else history.seconds(node)
    return PlanRow(node.label, node.kind, node.key, state, seconds)


def _state(key: str, store: Store) -> State:
    if store.committed(key):
        return "exists"
    return "failed" if store.failure(key) else "missing"
