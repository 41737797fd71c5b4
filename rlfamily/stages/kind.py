"""What a kind of stage is: one file that declares its settings, its inputs, what it writes and what it costs."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol, cast

from rlfamily.errors import UserError, nearest
from rlfamily.hardware import StageHardware
from rlfamily.place import Place
from rlfamily.settings import Strict
from rlfamily.stamp import stamp

KINDS_PATH = "RLFAMILY_KINDS_PATH"
"""Environment variable: further folders of kinds, separated as in PATH. It reaches the workers."""


class Versioned(Protocol):
    """A module whose numbers may change: VERSION is changed by hand when they do."""

    VERSION: str


class Kind(Protocol):
    """What a module `rlfamily/stages/kinds/<kind>.py` offers. Importing it must not import torch.

    Config   everything that can change the stage's numbers
    Inputs   a frozen dataclass: the artifacts' folders it reads, by name; a mapping where there are several alike
    WRITES   the files of its artifact, each with what it holds (of .jsonl: what a row is)

    Beside these a kind may offer `uses(config)`, the plug-in modules that its numbers come from, and
    `cost(config, hardware)`, the Work that estimates are made of.
    """

    VERSION: str
    WRITES: Mapping[str, str]
    Config: type[Strict]
    Inputs: type[Any]

    def run(self, place: Place, config: Any, inputs: Any) -> dict[str, Any]:
        """Write the artifact into `place.out` and return its summary, a JSON object."""
        ...


@dataclass(frozen=True)
class Work:
    """What a stage computes, in rows of at most `limit` tokens, a batch at a time.

    new         the most tokens of a row that are its response; None: all of them
    group       rows side by side that share a prompt, which then counts once
    trained     rows that the policy learns from
    passes      of 2 FLOP a parameter and token over each of them
    drawn       rows that are generated, by `engine`
    reference   a frozen initial policy is evaluated as well
    rewards     parameters of the reward models beside the policy
    processes   that share the work; stages that do not train use one, whatever they occupy
    """

    limit: int
    batch: int
    new: int | None = None
    group: int = 1
    trained: int = 0
    passes: float = 0
    drawn: int = 0
    engine: str = ""
    reference: bool = False
    rewards: int = 0
    processes: int = 1

    @property
    def response(self) -> int:
        """The most tokens of a response."""
        return self.limit if self.new is None else self.new

    @property
    def tokens(self) -> float:
        """The most tokens a row adds to a batch, its share of the group's prompt among them."""
        return self.response + (self.limit - self.response) / self.group


def versions_used(kind: Kind, config: Strict) -> dict[str, str]:
    """What stands for the code of each plug-in that a stage's numbers come from, by module: see `stamp`."""
    uses = getattr(kind, "uses", None)
    modules: list[Any] = list(uses(config)) if uses else []
    return {module.__name__.removeprefix("rlfamily."): stamp(module) for module in modules}


def cost_of(kind: Kind, config: Strict, hardware: StageHardware) -> Work | None:
    """What the stage computes; None for a kind that is not estimated."""
    cost = getattr(kind, "cost", None)
    return cost(config, hardware) if cost else None


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
        module = sys.modules[name] = importlib.util.module_from_spec(spec)  # its dataclasses look themselves up here
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return cast(Kind, sys.modules[name])
