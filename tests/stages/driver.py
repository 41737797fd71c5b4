"""A small experiment for tests to run and kill: `driver.py FOLDER [cells] [seconds per step]`, exit codes as in production.

It has no `if __name__ == "__main__"` on purpose: workers must never run it again.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rlfamily.stages.executors.local import LocalExecutor
from rlfamily.stages.scheduler import Interrupted, run_graph
from rlfamily.stages.store import Store
from tests.stages.laboratory import toy

folder, cells, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
root = folder / "results"


def stage(label, inputs, **config):
    return toy(folder, label, inputs, {"seconds": seconds}, **config)


def experiment():
    """Data, a shared warm start, then cells, each trained and scored; one in three leaves processes behind."""
    data = stage("data", {}, steps=2)
    start = stage("warm start", {"data": data}, steps=3)
    for number in range(cells):
        train = stage(f"train {number}", {"policy": start}, steps=5, action="write" if number % 3 else "spawn")
        yield stage(f"score {number}", {"policy": train, "data": data}, steps=1)


def show(event):
    if event.name != "tick":
        print(event.name, event.node.label if event.node else "", event.detail, flush=True)


targets = list(experiment())
with (folder / "invocations.txt").open("a") as file:
    file.write("x")
try:
    with LocalExecutor(root, 2, [], 1.0) as executor:
        outcomes = run_graph(targets, root, executor, show)
except Interrupted:
    sys.exit(130)
if any(outcome.status != "done" for outcome in outcomes.values()):
    sys.exit(3)
store = Store(root)
rows = [f"{target.label},{store.layout.manifest(target.key).summary['value']}\n" for target in targets]
(folder / "table.csv").write_text("".join(rows))
