"""What goes into a key for a module's code: its VERSION, and a mark where the code is not the one it was given to.

A VERSION is raised by hand, so nobody may rest on it alone: a method of one's own has none in our record, and one of
ours may just have been edited. `fingerprints.json` holds what each VERSION stands for (`python -m tests.fingerprints`).
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from rlfamily.source import Sources

RECORD = Path(__file__).with_name("fingerprints.json")
_ROOT = Path(__file__).resolve().parents[1]


def stamp(module: Any) -> str:
    """`3` for code that is as recorded at VERSION 3, else `3+` and eight digits of what stands there."""
    version, place = str(module.VERSION), str(getattr(module, "__file__", None) or "")
    mark = _mark(module.__name__, place, version) if place else ""
    return f"{version}+{mark}" if mark else version


@cache
def _mark(name: str, place: str, version: str) -> str:
    """"" for what is as recorded. A module that cannot be followed counts by the text of its file."""
    sources = _sources()
    try:
        present = sources.present(name)
    except (LookupError, SyntaxError, AssertionError, ValueError):
        present = None
    if present is None:
        return hashlib.sha256(Path(place).read_bytes()).hexdigest()[:8]
    recorded = _recorded().get(sources.file(name), {})
    same = (version, present.fingerprint) == (recorded.get("version"), recorded.get("fingerprint"))
    return "" if same else present.fingerprint[:8]


@cache
def _sources() -> Sources:
    return Sources(_ROOT)


@cache
def _recorded() -> dict[str, dict[str, Any]]:
    modules: dict[str, dict[str, Any]] = json.loads(RECORD.read_text("utf-8"))["modules"]
    return modules
