"""How long stages will take, judged by finished ones; and the plan: what exists, what is missing, what it may cost."""

from __future__ import annotations

import json
import os.path
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from rlfamily.stages.graph import Node, topological
from rlfamily.stages.store import MANIFEST, Store

State = Literal["exists", "missing", "failed"]
SHIPPED = Path(__file__).with_name("seconds.json")
"""CPU seconds of stand-in stages elsewhere, by kind and task: made by `python -m rlfamily.stages.measured`."""


@dataclass(frozen=True)
class Origin:
    """What must be alike before the seconds of one stage tell of another's.

    published  published models or data stand behind it: stand-ins take a thousandth of their time
    task       whose data it works on, "" for none
    """

    published: bool
    task: str


def origin_of(kind: str, config: Mapping[str, Any], sources: Iterable[Origin]) -> Origin:
    """Of a stage with this configuration, made from stages of these origins."""
    behind = list(sources)
    task = config["task"] if kind == "data" else {}
    published = kind == "hub" or task.get("source", {}).get("kind") == "hub"
    return Origin(published or any(one.published for one in behind),
                  task.get("kind") or next((one.task for one in behind if one.task), ""))


@dataclass(frozen=True)
class Finished:
    """A finished stage; `cpu_seconds` is None where nobody counted them."""

    label: str
    origin: Origin
    seconds: float
    cpu_seconds: float | None = None


class History:
    """Seconds that finished stages took, by kind. Reads every manifest once, at the first question."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._read = False
        self._origins: dict[str, Origin] = {}
        self._finished: defaultdict[str, list[Finished]] = defaultdict(list)

    def seconds(self, node: Node) -> float | None:
        """Median seconds of finished stages of the node's kind, those with the most similar label; None without any.

        Stand-ins tell nothing of published models and data, nor these of them. The same task comes first, this
        machine's own stages before those that were measured elsewhere (`SHIPPED`). Similar means: the longest common
        beginning, so that neighbours in a table forecast each other.
        """
        if not self._read:
            self._load()
        origin = self._origin(node)
        alike = [one for one in self._finished[node.kind] if one.origin.published == origin.published]
        known = [one for one in alike if one.origin.task == origin.task]
        elsewhere = {} if origin.published else shipped().get(node.kind, {})
        if not known and origin.task in elsewhere:
            return elsewhere[origin.task]
        if not (known or alike):
            return statistics.median(elsewhere.values()) if elsewhere else None
        shared = [(len(os.path.commonprefix([node.label, one.label])), one.seconds) for one in known or alike]
        return statistics.median(seconds for length, seconds in shared if length == max(shared)[0])

    def add(self, node: Node, seconds: float) -> None:
        """A stage has finished after `seconds`."""
        self._finished[node.kind].append(Finished(node.label, self._origin(node), seconds))

    def medians(self) -> dict[str, dict[str, float]]:
        """Median CPU seconds of the stand-ins' stages, by kind and task.

        A stage has one thread, so these are its seconds on a processor of its own, whatever else the machine did.
        """
        self._load()
        found: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for kind, finished in self._finished.items():
            for one in finished:
                if not one.origin.published and one.cpu_seconds is not None:
                    found[kind][one.origin.task].append(one.cpu_seconds)
        return {kind: {task: round(statistics.median(some), 2) for task, some in sorted(tasks.items())}
                for kind, tasks in sorted(found.items())}

    def _origin(self, node: Node) -> Origin:
        for one in topological([node]) if node.key not in self._origins else ():
            if one.key not in self._origins:
                behind = [self._origins[source.key] for source in one.sources]
                self._origins[one.key] = origin_of(one.kind, one.settings, behind)
        return self._origins[node.key]

    def _load(self) -> None:
        self._read = True
        manifests = {key: json.loads((self._store.layout.object(key) / MANIFEST).read_text("utf-8"))
                     for key in self._store.committed_keys()}

        @cache
        def origin(key: str) -> Origin:
            if key not in manifests:  # its artifact was removed
                return Origin(published=False, task="")
            one = manifests[key]
            inputs = [made for source in one["inputs"].values()
                      for made in ([source] if isinstance(source, str) else source.values())]
            return origin_of(one["kind"], one["config"], map(origin, inputs))

        for key, one in manifests.items():
            self._finished[one["kind"]].append(
                Finished(one["label"], origin(key), one["seconds"], one.get("cpu_seconds")))


@cache
def shipped() -> dict[str, dict[str, float]]:
    """What ships with the package: seconds by kind and task."""
    content: dict[str, dict[str, float]] = json.loads(SHIPPED.read_text("utf-8"))
    return content


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
