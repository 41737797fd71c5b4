"""One process of a multi-process train stage: `torchrun -m rlfamily.stages.launched REQUEST`."""

from __future__ import annotations

import atexit
import json
import os
import sys
from pathlib import Path

import torch

from rlfamily.errors import UserError
from rlfamily.stages.kinds import train
from rlfamily.stages.placing import REFUSAL
from rlfamily.stages.worker import StageContext


def main(request: Path) -> None:
    """Rebuild the stage's context and train; the first process leaves the totals for the stage.

    A UserError ends in a file too: the stage, which sees an exit code only, says it as its own.
    """
    content = json.loads(request.read_text())
    folders = {name: Path(content[name]) for name in ("work", "out")}
    context = StageContext(key=content["key"], label=content["label"], config=content["config"],
                           hardware=content["hardware"],
                           inputs={name: Path(path) for name, path in content["inputs"].items()}, **folders)
    try:
        totals = train.run(context)
    except UserError as error:
        rank = os.environ.get("RANK", "0")  # each writes a file of its own and puts it in place whole
        (folders["work"] / f"{REFUSAL}.{rank}").write_text(str(error))
        os.replace(folders["work"] / f"{REFUSAL}.{rank}", folders["work"] / REFUSAL)
        raise
    if int(os.environ.get("RANK", "0")) == 0:
        (folders["work"] / "totals.json").write_text(json.dumps(totals))
    _leave()


def _leave() -> None:
    """Leave the group together, do what was asked for at exit, and end there, without taking the libraries down.

    About one in twenty processes that had been in a group was aborted (SIGABRT, "terminate called without an active
    exception") after the interpreter's end, while the libraries' own static objects were taken down.
    """
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
