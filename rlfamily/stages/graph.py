"""A stage as a value: what it runs, on what inputs, and the key that names its result."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from rlfamily.errors import UserError, nearest

if TYPE_CHECKING:
    from rlfamily.stages.worker import StageContext

KINDS_PATH = "RLFAMILY_KINDS_PATH"
"""Environment variable: further folders of kinds, separated as in PATH. It reaches the workers."""

KEY_LENGTH = 32


class Kind(Protocol):
    """What a module `rlfamily/stages/kinds/<kind>.py` offers. Importing it must not import torch."""

    VERSION: str
    """Changed by hand when the code's numbers change: a new version is a new key."""

    def run(self, context: StageContext) -> dict[str, Any]:
        """Write the artifact into `context.out` and return its summary, a JSON object."""
        ...


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
    config    JSON object, copied, so that a later change by the caller cannot part the node from its key
    inputs    the stages whose artifacts it reads, by the name under which it reads them
    hardware  JSON object; its "slots" say what the stage occupies while it runs (see slots.py)
    label     what people see
    """

    kind: str
    config: dict[str, Any]
    inputs: dict[str, Node] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    label: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "config", json.loads(canonical(self.config, f"stage {self.kind}: config")))
        object.__setattr__(self, "inputs", dict(self.inputs))

    @cached_property
    def version(self) -> str:
        """VERSION of the kind's code. Raises UserError when there is no such kind."""
        return get_kind(self.kind).VERSION

    @cached_property
    def key(self) -> str:
        """SHA-256 of canonical {kind, version, config, inputs' keys}, first 32 hexadecimal digits."""
        identity = {
            "kind": self.kind,
            "version": self.version,
            "config": self.config,
            "inputs": {name: node.key for name, node in self.inputs.items()},
        }
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
    for source in node.inputs.values():
        _visit(source, ordered)
    ordered[node.key] = node


def kind_names() -> list[str]:
    """Every kind that has a file in rlfamily/stages/kinds or in a folder of RLFAMILY_KINDS_PATH, sorted."""
    return sorted({path.stem for path in _kind_files()})


def get_kind(name: str) -> Kind:
    """Return the module of kind `name`. Raises UserError, naming the nearest, when there is none."""
    return _find_kind(name, os.environ.get(KINDS_PATH, ""))


@cache
def _find_kind(name: str, folders: str) -> Kind:
    """Folders are looked through once for each kind, not for each stage; what is not there may still come."""
    for path in _kind_files():
        if path.stem == name:
            return _load(path)
    raise UserError(f"stage: no kind '{name}' in rlfamily/stages/kinds{nearest(name, kind_names())}")


def _kind_files() -> Iterator[Path]:
    """Own kinds first: a folder of RLFAMILY_KINDS_PATH adds kinds and replaces none."""
    folders = [_own_kinds(), *map(Path, filter(None, os.environ.get(KINDS_PATH, "").split(os.pathsep)))]
    for folder in folders:
        yield from (path for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_"))


def _own_kinds() -> Path:
    return Path(__file__).parent / "kinds"


def _load(path: Path) -> Kind:
    if path.parent == _own_kinds():
        return cast(Kind, importlib.import_module(f"rlfamily.stages.kinds.{path.stem}"))
    # Named by its folder, so that two folders may each have a kind of the same name.
    name = f"rlfamily_kinds_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}_{path.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None, f"not a Python file: {path}"
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return cast(Kind, sys.modules[name])
