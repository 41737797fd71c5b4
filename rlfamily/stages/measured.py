"""`python -m rlfamily.stages.measured RESULTS`: write the seconds that ship with the package from a finished folder.

They are what a plan forecasts of stand-ins until this machine has some of its own: CPU seconds, so the machine may
have been busy with other things. Run it after `make reproduce TABLE=all`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rlfamily.stages.forecast import SHIPPED, History
from rlfamily.stages.store import Store


def main(arguments: list[str], target: Path = SHIPPED) -> int:
    """Returns the exit code: 2, with one line, without one folder that holds finished stages of stand-ins."""
    found = History(Store(arguments[0])).medians() if len(arguments) == 1 else {}
    if not found:
        print("error: measured: name one results folder with finished stages at scale=tiny", file=sys.stderr)
        return 2
    target.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{sum(map(len, found.values()))} medians in {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
