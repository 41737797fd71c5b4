"""What the cells of a plan may ask of GPUs, as `make plan` prints it: cells that need the same in one line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from rlfamily.estimate import Estimate, Memory, estimate, unknown
from rlfamily.models import HubModel
from rlfamily.plan import Cell
from rlfamily.stages.graph import topological

HEADS = ("cells", "", "GPUs", "weights", "optimiser", "activations", "engine", "GiB a GPU", "GPU-hours")
BASIS = ("an estimate from settings and the assumptions of hardware.gpu, not measured; every response at its full "
         "length; memory is that of one training GPU in GiB; loading, the rewards' own time, log-probs and judges are "
         "left out")
ADVICE = ("use hardware.sharding=fsdp over more processes, a smaller hardware.micro_tokens or rollout_batch, or "
          "hardware.vllm.sleep=true")


@dataclass(frozen=True)
class Line:
    """Cells of one row and model that need the same machine; `memory` is that of their most demanding stage."""

    model: str
    row: str
    columns: tuple[str, ...]
    cells: int
    gpus: int
    memory: Memory
    limit: float
    hours: float

    @property
    def over(self) -> bool:
        """True when a GPU does not hold it."""
        return self.memory.peak > self.limit

    @property
    def label(self) -> str:
        """Row, model and column, or how many columns."""
        columns = self.columns[0] if len(self.columns) == 1 else f"{len(self.columns)} columns"
        return " · ".join(part for part in (self.row, self.model, columns) if part)


def lines(cells: Iterable[Cell], missing: set[str]) -> list[Line]:
    """One line for cells alike; none for stand-ins and machines without GPUs.

    Only stages whose keys are `missing` take hours; one that several cells share is counted at the first of them.
    """
    counted: set[str] = set()
    found: dict[tuple[object, ...], Line] = {}
    for cell in cells:
        made = _estimates(cell)
        if not made:
            continue
        worst = max(made.values(), key=lambda one: one.memory.peak)
        gpus = max(one.gpus for one in made.values())
        hours = sum(one.hours for key, one in made.items() if key in missing and key not in counted)
        counted |= set(made)
        place = (cell.model, cell.row, gpus, worst.memory)
        known = found.get(place, Line(cell.model, cell.row, (), 0, gpus, worst.memory, worst.limit, 0.0))
        found[place] = replace(known, columns=tuple(dict.fromkeys((*known.columns, cell.column))),
                               cells=known.cells + 1, hours=known.hours + hours)
    return list(found.values())


def _estimates(cell: Cell) -> dict[str, Estimate]:
    """By key: the estimate of each of the cell's stages and of what they are made from."""
    if not isinstance(cell.config.model, HubModel):
        return {}
    made = ((node.key, estimate(node, cell.config.model.size)) for node in topological(cell.stages.values()))
    return {key: one for key, one in made if one}


def show(cells: list[Cell], missing: set[str]) -> None:
    """Print the lines, their sum, what it rests on, and what does not fit; nothing where there are no lines."""
    from rich.console import Console
    from rich.table import Table

    made = lines(cells, missing)
    if not made:
        return
    table = Table(*HEADS, box=None)
    for column in table.columns[2:]:
        column.justify = "right"
    for line in made:
        memory = line.memory
        table.add_row(str(line.cells), line.label, str(line.gpus), f"{memory.weights:.1f}", f"{memory.optimizer:.1f}",
                      f"{memory.activations:.1f}", f"{memory.engine:.1f}",
                      f"{memory.peak:.1f}{' !' if line.over else ''}", f"{line.hours:.2f}")
    hours, most = sum(line.hours for line in made), max(line.gpus for line in made)
    largest = max(made, key=lambda line: line.memory.peak)
    said = [f"the largest cell needs {largest.memory.peak:.1f} of {largest.limit:g} GiB: {largest.label}",
            f"about {hours:.2f} GPU-hours, at most {most} GPUs a cell: {BASIS}"]
    over = sum(line.cells for line in made if line.over)
    if over:
        said.append(f"warning: {over} cells need more than a GPU has (!): {ADVICE}")
    left_out = unknown(node for cell in cells for node in topological(cell.stages.values()))
    if left_out:
        said.append(f"not counted: the reward models {', '.join(left_out)}")
    console = Console(width=120)
    console.print(table)
    for text in said:
        console.print(text, markup=False, highlight=False)
