"""Many cells: a sweep as users run it beside two other ways, what a stage costs beside its work, and no-op reruns."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench import commands
from bench.finished import finish
from bench.measure import Cost, Result, machine, spread, timed, turns
from bench.sweep import TABLE, Sweep
from rlfamily import experiment, plan
from rlfamily.config import build
from rlfamily.place import alone
from rlfamily.records import Layout
from rlfamily.stages.executors.local import LocalExecutor
from rlfamily.stages.graph import Node
from rlfamily.stages.kind import KINDS_PATH, get_kind
from rlfamily.stages.scheduler import run_graph
from rlfamily.stages.store import Store

RERUN = "gnivo_tab2"  # 60 cells a seed
NO_OP = """
from dataclasses import dataclass

from rlfamily.settings import Strict

VERSION, WRITES = "1", {}


class Config(Strict):
    number: int


@dataclass(frozen=True)
class Inputs:
    pass


def run(place, config, inputs):
    return {}
"""
SWEEP = {"way": "the same cells", "cpu": "CPU s", "wall": "wall s", "rate": "cells per minute", "ratio": "of our wall"}
STAGES = {"slots": "slots", "wall": "wall s per stage", "cpu": "driver's CPU s per stage"}
PLANNING = {"cells": "cells", "cpu": "CPU s", "each": "CPU ms per cell"}
RERUNS = {"cells": "cells", "cpu": "CPU s", "wall": "wall s", "each": "CPU ms per cell"}


def run(quick: bool) -> Result:
    """A sweep in three ways, stages without work, planning, and reruns of a finished table."""
    sweep = Sweep([0], ["Experiment 2"]) if quick else Sweep([0, 1, 2], [])
    return {
        "title": "Many cells", "quick": quick, "machine": machine(),
        "about": "What the harness costs around the training: CPU seconds are those of all processes together.",
        "tables": [
            {"title": "A sweep of small cells", "columns": SWEEP, "rows": sweeps(sweep, 1)},
            {"title": "Stages that do nothing", "columns": STAGES, "rows": no_ops(4 if quick else 40)},
            {"title": "Planning a table, cold", "columns": PLANNING, "rows": planning([1] if quick else [1, 10])},
            {"title": "The same command again, when all is done", "columns": RERUNS,
             "rows": reruns([1] if quick else [1, 10], 1 if quick else 3)},
        ],
        "notes": [
            "A sweep: the cells of topr_tab2 with few prompts, about three seconds of training each. All ways share "
            "data, base model and warm starts, and their scores agree (those with two threads are other sums). Ours "
            "includes the table, the figure and the report, which the others do not make.",
            "*The same command again* reads made-up artifacts, as many and as long as real ones, and rebuilds the "
            "table, its figure, the report and a page for every artifact.",
        ],
    }


# ---------------------------------------------------------------------------- a sweep in three ways


def sweeps(sweep: Sweep, rounds: int) -> list[dict[str, object]]:
    """One row a way. Raises RuntimeError when a way fails, or when fresh processes get other scores than ours."""
    cores, asked, count = os.cpu_count(), json.dumps(sweep), len(sweep.cells("results"))
    table = ["-m", "rlfamily.reproduce", TABLE, f"seeds={','.join(map(str, sweep.seeds))}", *sweep.overrides]
    table += [f"rows={','.join(sweep.rows)}"] if sweep.rows else []
    ours, single, fresh = (f"reproduce, {cores} warm workers (ours)", f"one process, {cores} threads",
                           f"a fresh process for each cell, {cores} at once")
    ways: dict[str, Callable[[str], commands.Done]] = {
        ours: lambda root: commands.python(*table, f"results={root}"),
        single: lambda root: commands.python("-m", "bench.sweep", "alone", asked, root, OMP_NUM_THREADS=str(cores)),
        fresh: lambda root: commands.python("-m", "bench.sweep", "apart", asked, root),
    }
    found = turns({way: partial(_swept, call, sweep) for way, call in ways.items()}, rounds, warm_up=0)
    if found[ours][0][1] != found[fresh][0][1]:
        raise RuntimeError("the same cells have other scores: the ways did not do the same work")
    costs = {way: [cost for cost, _ in answers] for way, answers in found.items()}
    least = spread([cost.wall for cost in costs[ours]])["median"]
    return [{"way": way, "cpu": spread([one.cpu for one in cost]), "wall": spread([one.wall for one in cost]),
             "rate": spread([60 * count / one.wall for one in cost]),
             "ratio": spread([one.wall for one in cost])["median"] / least} for way, cost in costs.items()]


def _swept(way: Callable[[str], commands.Done], sweep: Sweep) -> tuple[Cost, dict[str, str]]:
    """What a sweep into an empty folder cost, and the hash of every cell's scores."""
    with tempfile.TemporaryDirectory() as root:
        done = way(root)
        if done.code not in (0, 3):  # 3: rows that were not asked for are holes
            commands.must(done)
        layout = Layout(root)
        keys = [cell.stages["score"].key for cell in sweep.cells(root)]
        return done.cost, {key: layout.manifest(key).files["scores.jsonl"].blake3 for key in keys}


# ---------------------------------------------------------------------------- the harness alone


def no_ops(stages: int) -> list[dict[str, object]]:
    """Wall and driver's CPU seconds of a stage without work, with one slot and with one per core; a row each."""
    return [{"slots": slots, **_no_op(stages, slots)} for slots in sorted({1, os.cpu_count() or 1})]


def _no_op(stages: int, slots: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder, _kinds(folder):
        (Path(folder) / "noop.py").write_text(NO_OP)
        hardware = alone(Path(folder) / "unused", build([f"hardware.slots={slots}"]).hardware).hardware
        settings = get_kind("noop").Config
        nodes = [Node("noop", settings.model_validate({"number": number}), {}, hardware, f"no-op {number}")
                 for number in range(stages + 1)]
        with LocalExecutor(folder, slots, [], 5.0) as executor:
            run_graph(nodes[:1], folder, executor, lambda event: None)  # starts the workers' parent
            cost = timed(lambda: run_graph(nodes[1:], folder, executor, lambda event: None))
        if not all(Store(folder).committed(node.key) for node in nodes):
            raise RuntimeError("a stage without work failed")
    return {"wall": cost.wall / stages, "cpu": cost.cpu / stages}


@contextmanager
def _kinds(folder: str) -> Iterator[None]:
    before = os.environ.get(KINDS_PATH)
    os.environ[KINDS_PATH] = folder
    try:
        yield
    finally:
        os.environ.pop(KINDS_PATH) if before is None else os.environ.update({KINDS_PATH: before})


PLAN = """
import sys, time
from rlfamily import experiment, plan
start = time.process_time()
spec = experiment.load(sys.argv[1])
cells = plan.cells(spec, "tiny", seeds=list(range(int(sys.argv[2]))))
keys = [node.key for cell in cells for node in cell.stages.values()]
print(len(cells), time.process_time() - start)
"""


def planning(seeds: list[int]) -> list[dict[str, object]]:
    """From overrides to keys in a fresh process, so that nothing is remembered; all rows, the optional ones too."""
    rows: list[dict[str, object]] = []
    for number in seeds:
        cells, seconds = commands.must(commands.python("-c", PLAN, RERUN, str(number))).output.split()
        rows.append({"cells": int(cells), "cpu": float(seconds), "each": 1000 * float(seconds) / int(cells)})
    return rows


def reruns(seeds: list[int], rounds: int) -> list[dict[str, object]]:
    """What the command of a finished table costs, a row for each number of seeds. Raises RuntimeError if it works."""
    rows: list[dict[str, object]] = []
    spec = experiment.load(RERUN)
    for number in seeds:
        with tempfile.TemporaryDirectory() as root:
            cells = plan.cells(spec, "tiny", [f"results={root}"], list(range(number)),
                               [name for name, row in spec.rows.items() if not row.optional])
            made = finish((node for cell in cells for node in cell.stages.values()), root)
            costs = [_again(root, number) for _ in range(rounds + 1)][1:]  # the first writes the report
            if len(list(Store(root).committed_keys())) != made:
                raise RuntimeError("the rerun was to do nothing, and did something")
        rows.append({"cells": len(cells), "cpu": spread([one.cpu for one in costs]),
                     "wall": spread([one.wall for one in costs]),
                     "each": 1000 * spread([one.cpu for one in costs])["median"] / len(cells)})
    return rows


def _again(root: str, seeds: int) -> Cost:
    listed = ",".join(map(str, range(seeds)))
    return commands.must(commands.python("-m", "rlfamily.reproduce", RERUN, f"seeds={listed}", f"results={root}")).cost
