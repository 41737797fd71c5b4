"""Fingerprints of the code that makes numbers: a change without a decision must not pass.

    python -m tests.fingerprints                    what changed since the record
    python -m tests.fingerprints record ["reason"]  record it; the reason says why numbers do not change

Every module of a WATCHED folder with a `VERSION` has a fingerprint: a hash of its syntax tree without docstrings,
annotations, imports (the names used stand in their place) and VERSION itself, of the definitions in SHARED that it
uses, and of the helper modules that it imports, all transitively. A helper is a module of its own folder, or one of
another watched folder that has no VERSION. Of a folder's `__init__`, its registry, only the definitions used count.
What stages reach besides (trainer, rollout, models) is not watched: there VERSION is raised by hand alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlfamily.source import Present, Sources
from rlfamily.stamp import RECORD as RECORD_PATH

RECORD = f"rlfamily/{RECORD_PATH.name}"
COMMAND = "python -m tests.fingerprints record"


@dataclass(frozen=True)
class Change:
    """A module that is not as recorded. `decision` is None when somebody has to give a reason."""

    file: str
    told: str
    decision: str | None

    def __str__(self) -> str:
        if self.decision is not None:
            return f"{self.file}: {self.told}: run `{COMMAND}`"
        return (f"{self.file}: {self.told}: raise VERSION in {self.file} if numbers change and run `{COMMAND}`, "
                f'else `{COMMAND} "numbers do not change: why"`')


class Undecided(Exception):
    """Code changed, its VERSION did not, and no reason was given."""


def present(root: Path) -> dict[str, Present]:
    """Every module with a VERSION under `root`, by its file."""
    sources = Sources(root)
    found = {sources.file(module): sources.present(module) for module in sources.paths}
    return {file: module for file, module in found.items() if module}


def recorded(root: Path) -> dict[str, Any]:
    """`modules`: version, fingerprint and decision of each; `parts`: the hashes behind them."""
    path = root / RECORD
    return json.loads(path.read_text()) if path.exists() else {"modules": {}, "parts": {}}


def changes(now: dict[str, Present], before: dict[str, Any]) -> list[Change]:
    """Every module that is new, gone, or not as recorded."""
    gone = [Change(file, "is gone", "") for file in sorted(before["modules"].keys() - now.keys())]
    return gone + [change for file, module in now.items() if (change := _change(file, module, before))]


def _change(file: str, module: Present, before: dict[str, Any]) -> Change | None:
    old = before["modules"].get(file)
    if old is None:
        return Change(file, "is new", "new")
    if module.version != old["version"]:
        raised = f"VERSION is {module.version}, was {old['version']}"
        return Change(file, raised, raised)
    if module.fingerprint == old["fingerprint"]:
        return None
    differing = [name for name, part in sorted(module.parts.items()) if before["parts"].get(name) != part]
    named = ["own code"] * (file in differing) + [name for name in differing if name != file] or ["which files count"]
    return Change(file, f"{', '.join(named)} changed at VERSION {module.version}", None)


def record(root: Path, reason: str = "") -> list[Change]:
    """Write what stands there now, `reason` as the decision on code that changed at the same VERSION.

    Returns what changed. Raises Undecided, and writes nothing, when such code changed and there is no reason.
    """
    now, before = present(root), recorded(root)
    found = changes(now, before)
    undecided = [str(change) for change in found if change.decision is None]
    if undecided and not reason.strip():
        raise Undecided("\n".join(undecided))
    decisions = {change.file: reason if change.decision is None else change.decision for change in found}
    modules = {file: {"version": module.version, "fingerprint": module.fingerprint,
                      "decision": decisions[file] if file in decisions else before["modules"][file]["decision"]}
               for file, module in now.items()}
    parts = {name: part for module in now.values() for name, part in module.parts.items()}
    (root / RECORD).write_text(json.dumps({"modules": modules, "parts": parts}, indent=1, sort_keys=True) + "\n")
    return found
