"""A stage as a value: what it runs, on what inputs, and the key that names its result."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rlfamily.errors import UserError
from rlfamily.hardware import StageHardware
from rlfamily.settings import Strict
from rlfamily.stages.kind import get_kind, versions_used
from rlfamily.stamp import stamp

KEY_LENGTH = 32


def canonical(value: Any, place: str) -> str:
    """Return the one JSON text of `value`: sorted keys, no spaces, ASCII. `place` names it in errors.

    Configs arrive typed, so 1 and 1.0 are different values with different texts. Raises UserError, naming the place,
    for what JSON cannot hold: NaN and infinities, tuples, sets, objects, keys that are not strings.
    """
    _require_json(value, place)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _require_json(value: Any, place: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise UserError(f"{place}: key {key!r} is not a string; a stage config is a JSON object")
            _require_json(item, f"{place}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _require_json(item, f"{place}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{place}: {value} is not a JSON number; give a finite one or null")
    elif value is not None and type(value) not in (bool, int, float, str):
        raise UserError(f"{place}: {value!r} ({type(value).__name__}) is not JSON; give numbers, strings, lists")


@dataclass(frozen=True, eq=False)
class Node:
    """One stage. `config` holds everything that can change its numbers; `hardware` and `label` never enter the key.

    kind      name of the file in rlfamily/stages/kinds
    config    that kind's `Config`
    inputs    the stages whose artifacts it reads, by the names of that kind's `Inputs`; alike ones as a mapping
    hardware  what it occupies while it runs
    label     what people see
    after     checks that must have passed before it runs: it reads nothing of them, so its key does not know them
    """

    kind: str
    config: Strict
    inputs: Mapping[str, Node | Mapping[str, Node]]
    hardware: StageHardware
    label: str = ""
    after: tuple[Node, ...] = ()

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The config as plain JSON, in canonical order, which is what the stage will see.

        Raises UserError, naming the place, for what JSON cannot hold.
        """
        content: dict[str, Any] = json.loads(
            canonical(self.config.model_dump(mode="json"), f"stage {self.kind}: config"))
        return content

    @cached_property
    def version(self) -> str:
        """What stands for the kind's code: see `stamp`. Raises UserError when there is no such kind."""
        return stamp(get_kind(self.kind))

    @cached_property
    def uses(self) -> dict[str, str]:
        """What stands for the code of every plug-in that its numbers come from."""
        return versions_used(get_kind(self.kind), self.config)

    @cached_property
    def input_keys(self) -> dict[str, Any]:
        """Keys of the inputs, nested as they are."""
        return {name: source.key if isinstance(source, Node) else {inner: node.key for inner, node in source.items()}
                for name, source in self.inputs.items()}

    @cached_property
    def sources(self) -> list[Node]:
        """What must be there before it runs: the inputs in one row, and what it waits for."""
        read = [node for source in self.inputs.values()
                for node in ([source] if isinstance(source, Node) else source.values())]
        return [*read, *self.after]

    @cached_property
    def key(self) -> str:
        """SHA-256 of canonical {kind, version, uses, config, inputs' keys}, first 32 hexadecimal digits."""
        identity = {"kind": self.kind, "version": self.version, "uses": self.uses, "config": self.settings,
                    "inputs": self.input_keys}
        return hashlib.sha256(canonical(identity, "stage").encode()).hexdigest()[:KEY_LENGTH]


def topological(nodes: Iterable[Node]) -> list[Node]:
    """Every node that `nodes` need, themselves included: inputs first, one node per key, order of first appearance.

    A node's inputs must exist before it does, so a graph of them cannot have a cycle.
    """
    ordered: dict[str, Node] = {}
    for node in nodes:
        _visit(node, ordered)
    return list(ordered.values())


def _visit(node: Node, ordered: dict[str, Node]) -> None:
    if node.key in ordered:
        return
    for source in node.sources:
        _visit(source, ordered)
    ordered[node.key] = node
