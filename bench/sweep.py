"""The same cells in three ways, each a command of its own whose cost `bench.cells` takes.

    python -m rlfamily.reproduce topr_tab2 ...              as users run a table: workers forked from one warm server
    python -m bench.sweep alone PLAN RESULTS                every stage in turn, one process, as many threads as cores
    python -m bench.sweep apart PLAN RESULTS                `python -m rlfamily.train` for every cell, one per core

PLAN is a `Sweep` as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from rlfamily import experiment, plan
from rlfamily.plan import Cell
from rlfamily.stages.graph import topological
from rlfamily.stages.store import Order, Store
from rlfamily.stages.worker import COMMITTED, run_task

TABLE = "topr_tab2"
OVERRIDES = [  # the model of tiny scale, with so little to do that a run takes about three seconds
    "task.source.train=400", "task.source.validation=16", "task.source.test=32", "task.source.demonstrations_train=200",
    "task.source.demonstrations_validation=8", "task.source.corpus=1600", "task.eval_prompts=32", "task.eval_draws=1",
    "task.prompt_fraction=0.04", "task.pretrain.lines=1600", "task.pretrain.epochs=1", "task.pretrain.gate.least=0.0",
    "wandb=off",
]


class Sweep(NamedTuple):
    """Which cells of TABLE; no `rows` means all of them."""

    seeds: list[int]
    rows: list[str]
    overrides: list[str] = OVERRIDES

    def cells(self, results: str) -> list[Cell]:
        """The cells, planned for a results folder."""
        overrides = [*self.overrides, f"results={results}"]
        return plan.cells(experiment.load(TABLE), "tiny", overrides, self.seeds, self.rows or None)


def alone(found: list[Cell], results: str) -> None:
    """Every stage in this process, one after another."""
    import torch

    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    torch.set_num_threads = lambda nthreads: None  # the stages ask for one
    store = Store(results)
    for node in topological(node for cell in found for node in cell.stages.values()):
        store.write_order(Order.of(node))
        if run_task(results, node.key) != COMMITTED:
            raise RuntimeError(f"{node.label}: {store.failure(node.key)}")


def apart(found: list[Cell]) -> None:
    """A fresh command for every cell, as many at once as there are cores."""

    def train(cell: Cell) -> None:
        command = [sys.executable, "-m", "rlfamily.train", *cell.overrides]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(train, found))


if __name__ == "__main__":
    way, asked, results = sys.argv[1:]
    found = Sweep(*json.loads(asked)).cells(results)
    if way == "alone":
        alone(found, results)
    else:
        apart(found)
