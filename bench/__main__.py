"""`python -m bench [PART ...] [--quick] [--out FOLDER]`: measure, print, keep.

Without names every part runs that needs no GPU. Each writes its result when it is done; then docs/benchmarks.md is made
from all of them. With --quick sizes are tiny, nothing of the repository changes, and the figures mean nothing.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything imports torch
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from bench import report
from bench.measure import RESULTS
from rlfamily.errors import UserError, nearest
from rlfamily.records import write_atomic

BY_DEFAULT = [name for name in report.PARTS if name != "gpu"]


def measure(name: str, quick: bool, folder: Path) -> None:
    """Run one part, print it, write its file."""
    result = importlib.import_module(f"bench.{name}").run(quick)
    write_atomic(folder / f"{name}.json", json.dumps(result, indent=1) + "\n")
    sys.stdout.write(report.section(result) + f"\nwritten to {folder / name}.json\n\n")
    sys.stdout.flush()


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure, print, keep.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(report.PARTS)} (all but gpu)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run, and do the sides agree?")
    parser.add_argument("--out", type=Path, help="folder for the results (bench/results; a temporary one with --quick)")
    found = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = found.out or (Path(temporary) if found.quick else RESULTS)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            for name in found.parts or BY_DEFAULT:
                if name not in report.PARTS:
                    raise UserError(f"bench: there is no part '{name}'{nearest(name, report.PARTS)}")
                measure(name, found.quick, folder)
        except UserError as error:
            sys.stderr.write(f"error: {error}\n")
            return 2
    if not found.quick and found.out is None:
        sys.stdout.write(f"{report.write()} made from {RESULTS}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
