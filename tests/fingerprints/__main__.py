"""Command line of the fingerprints."""

from __future__ import annotations

import sys
from pathlib import Path

from . import Undecided, changes, present, record, recorded
from . import __doc__ as usage

REPOSITORY = Path(__file__).resolve().parents[2]


def main(arguments: list[str], root: Path = REPOSITORY) -> int:
    """Exit status: 0 when nothing is left to decide."""
    match arguments:
        case []:
            found = changes(present(root), recorded(root))
            print(*found or ["as recorded"], sep="\n")
            return int(bool(found))
        case ["record", *reason] if len(reason) < 2:
            try:
                print(*(f"{change.file}: {change.told}" for change in record(root, *reason)), "recorded", sep="\n")
            except Undecided as error:
                print(error, file=sys.stderr)
                return 1
            return 0
    print((usage or "").partition("Every module")[0].rstrip(), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
