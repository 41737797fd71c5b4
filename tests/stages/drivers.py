"""Drivers as processes of their own, and everything that descends from them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil

HERE = Path(__file__).parent


def start_driver(folder, cells, seconds, own_session):
    """The experiment of driver.py in a process of its own; everything that descends from it shows STAGE_TEST."""
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "STAGE_TEST": str(folder),
                   "RLFAMILY_KINDS_PATH": str(HERE / "toys")}
    command = [sys.executable, str(HERE / "driver.py"), str(folder), str(cells), str(seconds)]
    with (folder / "driver.log").open("a") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=own_session)


def descendants(folder):
    """Every live process of drivers on `folder`, orphans included: fork servers, workers, what they started."""
    found = []
    for process in psutil.process_iter():
        try:
            shown = process.environ().get("STAGE_TEST") == str(folder)
            if shown and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found
