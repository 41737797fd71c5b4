"""A paper's table or figure: `python -m rlfamily.reproduce TABLE [scale=tiny] [seeds=0,1] [rows=all] [key=value]`.

Plans the cells, runs what is missing, and prints the table beside the published numbers. The same command after any
interruption goes on from where things stand.
"""

from __future__ import annotations

import json
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rlfamily import experiment as experiments
from rlfamily.errors import UserError, nearest
from rlfamily.execution import FAILED, INCOMPLETE, INTERRUPTED, OK, execute, failure_of, guarded, require_writable
from rlfamily.records import CellEntry, Index, Layout, Status, write_atomic
from rlfamily.stages import executors
from rlfamily.variants import OUTPUTS, changed, name_of, outputs_of

USAGE = """usage: python -m rlfamily.reproduce TABLE [TABLE ...] [scale=tiny] [seeds=0,1,2] [rows=all]
                                      [executor=local] [budget=tokens] [--plan] [outputs.NAME=FILE] [key=value ...]

  TABLE       a file of experiments/ without its ending, a paper (topr: all of its tables), or all
  scale       tiny (default: two CPU cores, stand-in models and data) or paper
  seeds       replaces the experiment's own seeds
  rows        all: the optional rows as well (variants, negative controls); "A,B": run these rows only. A table keeps
              an optional row once it was asked for
  outputs.NAME=FILE  a further row NAME whose responses stand in a file, as alpaca_eval's model_outputs.json has them
  executor    where stages run: local
  budget      tokens or queries: methods with a free size run at the largest that costs no more than one row, which
              the table's yaml names
  --plan      print the cells, what exists, what is missing and a cost forecast; start nothing
  key=value   overrides for every row, as on the train command line, e.g. hardware.slots=1 results=/tmp/r

tables: """


OWN = ("scale", "seeds", "rows", "executor", "budget")


@dataclass(frozen=True)
class Request:
    """The command line, understood."""

    tables: list[str]
    scale: str
    seeds: list[int] | None
    rows: str
    executor: str
    budget: str
    overrides: list[str]
    outputs: dict[str, str]
    plan: bool


def parse(arguments: list[str]) -> Request:
    """Read the command line. Raises UserError for a flag, table or seed that makes no sense."""
    flags = [argument for argument in arguments if argument.startswith("-")]
    unknown = [flag for flag in flags if flag != "--plan"]
    if unknown:
        raise UserError(f"command line: unknown flag '{unknown[0]}'{nearest(unknown[0], ['--plan', '--help'])}")
    outputs = outputs_of(arguments)
    arguments = [argument for argument in arguments if not argument.startswith(OUTPUTS)]
    pairs = [argument for argument in arguments if "=" in argument and argument not in flags]
    own = dict(pair.split("=", 1) for pair in pairs if pair.split("=", 1)[0] in OWN)
    tables = _tables([argument for argument in arguments if argument not in pairs and argument not in flags])
    if not tables:
        raise UserError(f"command line: which table? Give one of {', '.join(experiments.names())}, or all")
    return Request(
        tables=tables, scale=own.get("scale", "tiny"), seeds=_seeds(own.get("seeds")),
        rows=own.get("rows", ""), executor=own.get("executor", "local"), budget=own.get("budget", ""), outputs=outputs,
        overrides=[pair for pair in pairs if pair.split("=", 1)[0] not in own], plan="--plan" in flags)


def _tables(asked: list[str]) -> list[str]:
    """Experiments by their names; a paper, or all, stands for several. What does not exist stays, to be refused."""
    groups = {"all": experiments.names(), **experiments.papers()}
    words = [word for one in asked for word in re.split(r"[,\s]+", one) if word]
    return list(dict.fromkeys(name for word in words for name in groups.get(word, [word])))


def choose_rows(specs: dict[str, experiments.Experiment], text: str) -> dict[str, list[str]]:
    """The rows asked for, by table: `text` is "" (all but the optional), "all", or names between commas.

    Raises UserError for a name that no table has. A row name may itself hold commas: the longest match counts.
    """
    if text in ("", "all"):
        return {name: [row for row, one in spec.rows.items() if text or not one.optional]
                for name, spec in specs.items()}
    known = {row for spec in specs.values() for row in spec.rows}
    parts, found = text.strip("[]").split(","), []
    while parts:
        ends = [end for end in range(len(parts), 0, -1) if ",".join(parts[:end]).strip() in known]
        if not ends:
            there = ", ".join(dict.fromkeys(row for spec in specs.values() for row in spec.rows))
            asked = parts[0].strip()
            raise UserError(f"rows: no row '{asked}' here{nearest(asked, known)}; there is {there}")
        found.append(",".join(parts[:ends[0]]).strip())
        parts = parts[ends[0]:]
    return {name: [row for row in spec.rows if row in found] for name, spec in specs.items()}


def _kept(named: str, scale: str, spec: experiments.Experiment, results: str) -> set[str]:
    """Rows that stay in a table whatever is asked for: those not optional, and the optional ones it has by now."""
    path = Layout(results).index / f"{named}.json"
    there: dict[str, Any] = {}
    with suppress(FileNotFoundError, ValueError):  # a damaged index is written anew
        there = json.loads(path.read_bytes())
    known = {cell["row"] for cell in there.get("cells", [])} if there.get("scale") == scale else set()
    return {row for row, one in spec.rows.items() if not one.optional or row in known}


def _seeds(text: str | None) -> list[int] | None:
    if text is None:
        return None
    parts = re.split(r"[,\s]+", text.strip("[] "))
    if not all(part.strip().isascii() and part.strip().isdigit() for part in parts):
        raise UserError(f"seeds: '{text}' is not a list of numbers: write seeds=0,1,2")
    return list(dict.fromkeys(int(part) for part in parts))


def main(request: Request) -> int:
    """Plan or run; returns the exit code."""
    executors.require(request.executor)
    specs = {name: experiments.load(name).with_outputs(request.outputs) for name in request.tables}
    _require_known(specs)
    if request.budget:
        code, specs = _within_budget(request, specs)
        if not specs:
            return code
    cells, asked = _cells(request, specs)
    nodes = [node for group in asked.values() for cell in group for node in cell.stages.values()]
    config = next(cell.config for group in cells.values() for cell in group)
    if request.plan:
        return _print_plan(asked, nodes, config.results)
    require_writable(config.results)
    code, outcomes = _execute(nodes, config.results, _hardware(asked, config.hardware), request.executor)
    layout = Layout(config.results)
    named = {name: _named(request, name, spec) for name, spec in specs.items()}
    for name, spec in specs.items():
        index = _index(request, name, spec, cells[name], outcomes, config.results)
        write_atomic(layout.index / f"{named[name]}.json", index.model_dump_json(indent=1))
        wanted = {cell.row for cell in asked[name]}
        if code == OK and any(cell.status != "done" for cell in index.cells if cell.row in wanted):
            code = INCOMPLETE
    return _show([*named.values()], layout) or code


def _within_budget(
    request: Request, specs: dict[str, experiments.Experiment]
) -> tuple[int, dict[str, experiments.Experiment]]:
    """The tables with every free size chosen, for which all sizes draw responses; none when it ends here."""
    from rlfamily import budgets, plan

    budgets.require(request.budget, specs)
    tried = {name: plan.cells(budgets.trials(spec), request.scale, request.overrides, request.seeds)
             for name, spec in specs.items()}
    nodes = [node for group in tried.values() for cell in group for node in cell.stages.values()]
    config = next(cell.config for group in tried.values() for cell in group)
    if request.plan:
        return _print_plan(tried, nodes, config.results), {}
    require_writable(config.results)
    code, _ = _execute(nodes, config.results, _hardware(tried, config.hardware), request.executor)
    if code != OK:
        return code, {}
    layout = Layout(config.results)
    return code, {name: budgets.fitted(spec, request.budget, tried[name], layout) for name, spec in specs.items()}


def _require_known(specs: dict[str, experiments.Experiment]) -> None:
    from eval.labels import require_known

    require_known(specs)


def _cells(request: Request, specs: dict[str, experiments.Experiment]) -> tuple[dict[str, Any], dict[str, Any]]:
    """By table: the cells it is made of, and those among them that are to run now."""
    from rlfamily import plan
    from rlfamily.config import build

    results = build([override for override in request.overrides if override.startswith("results=")]).results
    chosen = choose_rows(specs, request.rows)
    cells, asked = {}, {}
    for name, spec in specs.items():
        kept = _kept(_named(request, name, spec), request.scale, spec, results)
        cells[name] = plan.cells(spec, request.scale, request.overrides, request.seeds, {*chosen[name], *kept})
        running = {*chosen[name], *(() if request.rows else kept)}
        asked[name] = [cell for cell in cells[name] if cell.row in running]
    return cells, asked


def _hardware(cells: dict[str, list[Any]], otherwise: Any) -> Any:
    """The machine that the cells with stages ask for, GPUs first: a table of settings asks for none."""
    asked = [cell.config.hardware for group in cells.values() for cell in group if cell.stages]
    return next((one for one in asked if one.kind == "gpu"), asked[0] if asked else otherwise)


def _execute(nodes: list[Any], results: str, hardware: Any, executor: str) -> tuple[int, dict[str, Any]]:
    from rlfamily.stages.scheduler import Interrupted

    try:
        return OK, execute(nodes, results, hardware, executor)
    except Interrupted as interrupted:
        print(f"interrupted: {interrupted}", file=sys.stderr)
        return INTERRUPTED, interrupted.outcomes


def _changes(request: Request, spec: experiments.Experiment) -> list[str]:
    own = spec.scales[request.scale].seeds if request.scale in spec.scales else []
    files = [f"{OUTPUTS}{name}={path}" for name, path in request.outputs.items()]
    budget = [f"budget={request.budget}"] if request.budget else []
    return [*changed(request.overrides, request.seeds, own), *files, *budget]


def _named(request: Request, table: str, spec: experiments.Experiment) -> str:
    """What the table is called that this request makes."""
    return name_of(table, request.scale, _changes(request, spec))


def _index(
    request: Request, name: str, spec: experiments.Experiment, cells: list[Any], outcomes: dict[str, Any], results: str
) -> Index:
    entries = []
    for cell in cells:
        status, reason = _fate(cell, outcomes, results)
        entries.append(CellEntry(
            model=cell.model, row=cell.row, column=cell.column, seed=cell.seed, overrides=cell.overrides,
            names=cell.config.names, config=cell.config.settings(),
            stages={role: node.key for role, node in cell.stages.items()}, status=status, reason=reason))
    return Index(experiment=name, scale=request.scale, changes=_changes(request, spec),
                 spec=spec.model_dump(mode="json"), cells=entries)


def _fate(cell: Any, outcomes: dict[str, Any], results: str) -> tuple[Status, str]:
    """The first stage of the cell that is not done decides what the cell is; one nobody asked for may exist."""
    for node in cell.stages.values():
        outcome = outcomes.get(node.key)
        if outcome is None:
            if not Layout(results).committed(node.key):
                return "missing", "not asked for"
        elif outcome.status != "done":
            reason = outcome.reason
            return outcome.status, failure_of(results, node.key, reason) if outcome.status == "failed" else reason
    return "done", ""


def _print_plan(cells: dict[str, list[Any]], nodes: list[Any], results: str) -> int:
    """The stages with their state and forecast, the sums, and what GPUs they may ask for."""
    from rich.console import Console
    from rich.table import Table

    from rlfamily import costs
    from rlfamily.stages.forecast import plan
    from rlfamily.stages.progress import clock

    rows = plan(nodes, results)
    table = Table("stage", "kind", "key", "state", "forecast", box=None)
    for row in rows:
        table.add_row(row.label, row.kind, row.key[:12], row.state, "" if row.state == "exists" else clock(row.seconds))
    Console().print(table)
    missing = [row for row in rows if row.state != "exists"]
    known = [row.seconds for row in missing if row.seconds is not None]
    unknown = len(missing) - len(known)
    times = [f"about {clock(sum(known))} of one slot's time"] if known or not missing else []
    times += [f"{unknown} of unknown time: no stage like these has finished here"] if unknown else []
    print(f"{sum(map(len, cells.values()))} cells, {len(rows)} stages, {len(missing)} to run, {' and '.join(times)}")
    costs.show([cell for group in cells.values() for cell in group], {row.key for row in missing})
    return OK


def _show(names: list[str], layout: Layout) -> int:
    """Make what people look at and print the tables of these names; FAILED when one of them cannot be made."""
    import eval

    page, frames, broken = eval.publish(layout.root)
    for name, reason in broken.items():
        print(f"error: {name}: {reason}", file=sys.stderr)
    for name in names:
        if name in frames:
            eval.show(frames[name])
    print(f"tables   {layout.tables}/\nfigures  {layout.figures}/\nreport   {page}")
    return FAILED if broken.keys() & {*names} else OK


def _cli() -> int:
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print(USAGE + "\n        ".join(experiments.names()))
        return OK
    return main(parse(arguments))


if __name__ == "__main__":
    sys.exit(guarded(_cli))
