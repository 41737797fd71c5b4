"""python -m eval topr_tab2 | --all [--results DIR]: rebuild tables, figures and the report from artifacts."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from rlfamily.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """Parse, rebuild, print; exit code 2 on a mistake of the user's."""
    parser = argparse.ArgumentParser(prog="python -m eval", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="TABLE", help="tables to rebuild and print, e.g. topr_tab2")
    parser.add_argument("--all", action="store_true", help="rebuild every table and figure, and the report")
    parser.add_argument("--results", default="results", help="results folder (default: results)")
    options = parser.parse_args(arguments)
    if not options.names and not options.all:
        parser.print_help()
        return 0
    try:
        return run(options.names, Path(os.path.expanduser(options.results)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def run(names: list[str], root: Path) -> int:
    """Rebuild everything and print the named tables. What cannot be made is told, and is no reason not to make others.

    Returns 2 when there is such a table, else 0. Raises UserError for a name that has no results.
    """
    from eval import publish, show
    from eval.artifacts import Archive

    page, frames, broken = publish(root)
    for name in names:
        if name in frames:
            show(frames[name])
        elif name not in broken:
            Archive(root).index(name)  # refuses it, with what to do
    for name, reason in broken.items():
        print(f"error: {name}: {reason}", file=sys.stderr)
    print(f"report: {page}")
    return 2 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
