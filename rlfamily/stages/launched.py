"""One process of a multi-process train stage: `torchrun -m rlfamily.stages.launched REQUEST`."""

from __future__ import annotations

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
    _part()


def _part() -> None:
    """Leave the group together and in order: its threads, met by the end of the process, may abort it."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
