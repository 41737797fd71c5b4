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
        run(options.names, Path(os.path.expanduser(options.results)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run(names: list[str], root: Path) -> None:
    """Rebuild and print the named tables, then refresh the report."""
    from eval import build, build_report, show

    for name in names:
        show(build(name, root))
    print(f"report: {build_report(root)}")


if __name__ == "__main__":
    sys.exit(main())
