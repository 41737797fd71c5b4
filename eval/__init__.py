"""Reads results/ and makes what people look at: tables, figures, claims, the report. Never trains, never loads torch.

    build(name, results_root) -> TableFrame      one experiment's table and figure, written and returned
    build_report(results_root) -> Path           every table and figure, and results/report/index.html
    publish(results_root) -> Path, tables, reasons      the same, with the tables, and why others cannot be made
    show(frame)                                  a table on the terminal

The names are loaded on first use, so that `import eval` costs nothing. Always write `from eval.x import y`: a bare
`import eval` hides the builtin.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eval.produce import build
    from eval.report import build_report, publish
    from eval.terminal import show

__all__ = ["build", "build_report", "publish", "show"]

_HOMES = {"build": "eval.produce", "build_report": "eval.report", "publish": "eval.report", "show": "eval.terminal"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'eval' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
