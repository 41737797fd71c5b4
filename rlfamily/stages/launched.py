"""A stage over several processes: `torchrun -m rlfamily.stages.launched WORK`, which accelerate joins.

torchrun starts them, since `accelerate launch` would start a single one on CPU.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from rlfamily.errors import UserError
from rlfamily.place import Place
from rlfamily.stages.kind import get_kind
from rlfamily.stages.perform import Stopwatch, place_of, read_inputs
from rlfamily.stages.store import Store

INSIDE = "RLFAMILY_LAUNCHED"
REFUSAL, TOTALS = "refusal.txt", "totals.json"


def inside() -> bool:
    """True in one of the processes that were started together."""
    return bool(os.environ.get(INSIDE))


def relaunched(place: Place) -> dict[str, Any]:
    """Run the stage again as hardware.processes processes; returns the totals of the first.

    Raises UserError: what a process refused, or that the launch failed; the stage's log has the processes' own output.
    """
    refusal = place.work / REFUSAL
    refusal.unlink(missing_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node",
               str(place.hardware.processes), "-m", "rlfamily.stages.launched", str(place.work), str(place.out)]
    finished = subprocess.run(command, env={**os.environ, INSIDE: "1"}, check=False)
    if finished.returncode and refusal.exists():
        raise UserError(refusal.read_text("utf-8"))
    if finished.returncode:
        raise UserError(f"{place.label}: {place.hardware.processes} processes failed with code {finished.returncode}: "
                        f"see {place.work / 'log.txt'}")
    totals: dict[str, Any] = json.loads((place.work / TOTALS).read_text("utf-8"))
    return totals


def main(work: Path, out: Path) -> None:
    """Run the stage in this process; the first one leaves the totals for the stage.

    A UserError ends in a file too: the stage, which sees an exit code only, says it as its own.
    """
    store, rank = Store(work.parents[2]), os.environ.get("RANK", "0")
    order = store.order(work.name)
    kind = get_kind(order.kind)
    place = place_of(store, order, out, Stopwatch(work / "progress.json"))
    try:
        totals = kind.run(place, kind.Config.model_validate(order.config), read_inputs(store, order, kind))
    except UserError as error:
        # each writes a file of its own and puts it in place whole
        (work / f"{REFUSAL}.{rank}").write_text(str(error), "utf-8")
        os.replace(work / f"{REFUSAL}.{rank}", work / REFUSAL)
        raise
    if rank == "0":
        (work / TOTALS).write_text(json.dumps(totals))
    _leave()


def _leave() -> None:
    """Leave the group together, do what was asked for at exit, and end there, without taking the libraries down.

    About one in twenty processes that had been in a group was aborted (SIGABRT, "terminate called without an active
    exception") after the interpreter's end, while the libraries' own static objects were taken down.
    """
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
