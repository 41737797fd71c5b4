"""Start-up: what the commands cost that train nothing, and the proof of what they do not import."""

from __future__ import annotations

import re
import sys
import tempfile
from dataclasses import dataclass

from bench import commands
from bench.finished import finish
from bench.measure import Result, machine, spread, turns
from rlfamily import experiment, plan

TABLE = "topr_tab2"
HEAVY = ("torch", "transformers", "accelerate", "peft", "datasets", "wandb", "vllm")
COLUMNS = {"command": "command", "cpu": "CPU s", "wall": "wall s", "modules": "modules imported",
           "without": "without"}
_IMPORTED = re.compile(r"^import time:\s+\d+ \|\s+\d+ \|\s*(\S+)$", re.M)


@dataclass(frozen=True)
class Command:
    """A command of Python's, the exit code it must have, and the packages that it must not import."""

    name: str
    arguments: tuple[str, ...]
    code: int = 0
    without: tuple[str, ...] = HEAVY


def listed(results: str) -> list[Command]:
    """What is measured; in `results` the table is finished and has an index, once its command was given."""
    light = (*HEAVY, "hydra", "pandas")
    return [
        Command("import rlfamily", ("-c", "import rlfamily"), without=(*light, "numpy", "pydantic")),
        Command("reproduce --help", ("-m", "rlfamily.reproduce", "--help"), without=(*light, "numpy", "matplotlib")),
        Command("train, a mistyped key", ("-m", "rlfamily.train", "algorithm.epoch=3"), 2, (*HEAVY, "pandas")),
        Command("reproduce, a mistyped key", ("-m", "rlfamily.reproduce", TABLE, "algorithm.epoch=3"), 2,
                (*HEAVY, "pandas", "matplotlib")),
        Command(f"reproduce --plan {TABLE}", ("-m", "rlfamily.reproduce", "--plan", TABLE, f"results={results}"),
                without=(*HEAVY, "pandas", "matplotlib")),
        Command(f"reproduce {TABLE}, all done", ("-m", "rlfamily.reproduce", TABLE, "seeds=0", f"results={results}"),
                without=(*HEAVY, "pandas")),
        Command("eval --all, the same table", ("-m", "eval", "--all", "--results", results), without=light),
    ]


def run(quick: bool) -> Result:
    """One table. Raises RuntimeError when a command ends otherwise than it must, or imports what it must not."""
    with tempfile.TemporaryDirectory() as results:
        prepare(results)
        found = listed(results)
        counts = {command.name: len(imported(command)) for command in found}
        sides = {command.name: lambda command=command: ended(command).cost for command in found}
        costs = turns(sides, 1 if quick else 7, 0 if quick else 1)
    rows = [{"command": command.name, "cpu": spread([cost.cpu for cost in costs[command.name]]),
             "wall": spread([cost.wall for cost in costs[command.name]]), "modules": counts[command.name],
             "without": ", ".join(command.without)} for command in found]
    return {
        "title": "Start-up", "quick": quick, "machine": machine(),
        "about": "Commands that train nothing, as processes of their own. Under *without* stands what a run with "
                 "`-X importtime` proved not to be imported.",
        "tables": [{"title": "", "columns": COLUMNS, "rows": rows}],
        "notes": ["The results folder holds one finished seed of the table (8 cells), made up."],
    }


def prepare(results: str) -> None:
    """Finish one seed of the table, and let its command write the index."""
    cells = plan.cells(experiment.load(TABLE), "tiny", [f"results={results}"], [0])
    finish((node for cell in cells for node in cell.stages.values()), results)
    commands.must(commands.python("-m", "rlfamily.reproduce", TABLE, "seeds=0", f"results={results}"))


def ended(command: Command, *flags: str) -> commands.Done:
    """Run it. Raises RuntimeError when its exit code is not the one it must have."""
    done = commands.run(sys.executable, *flags, *command.arguments)
    if done.code != command.code:
        raise RuntimeError(f"{command.name}: exit code {done.code}: {done.output[-2000:]}")
    return done


def imported(command: Command) -> set[str]:
    """Names of the modules that it imports. Raises RuntimeError when there is one among them that must not be."""
    found = set(_IMPORTED.findall(ended(command, "-X", "importtime").output))
    heavy = {name.partition(".")[0] for name in found} & set(command.without)
    if heavy or "rlfamily" not in found:
        raise RuntimeError(f"{command.name} imports {', '.join(sorted(heavy)) or 'nothing of rlfamily'}")
    return found
