"""Tables at an equal budget: a method with a free size runs at the largest that costs no more than a named row.

    budget: {row: IRO, sizes: {best of N: [[decoding.samples=1], [decoding.samples=4], [decoding.samples=16]]}}

Costs are counted, not timed: stages share samples through their pool, so that seconds of one say little.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean

from rlfamily.errors import UserError, nearest
from rlfamily.experiment import Experiment, Row, Spot
from rlfamily.plan import Cell
from rlfamily.quantities import Metric
from rlfamily.records import Layout, read_jsonl

UNITS = {"tokens": ("cost_tokens",), "queries": ("cost_value_queries", "cost_reward_queries")}
"""What a budget counts: generated tokens, or questions to value functions and rewards."""


def require(unit: str, specs: Mapping[str, Experiment]) -> None:
    """Raise UserError for a budget that nobody counts, or a table without sizes to choose from."""
    if unit not in UNITS:
        raise UserError(f"budget: nothing counts '{unit}'{nearest(unit, UNITS)}; there is {', '.join(UNITS)}")
    for name, spec in specs.items():
        if spec.budget is None:
            raise UserError(f"budget: table {name} has no methods with a free size (`budget` in its yaml)")


def trials(experiment: Experiment) -> Experiment:
    """The named row and every size of the others, as far as their responses."""
    budget = experiment.budget
    assert budget is not None
    rows = {budget.row: experiment.rows[budget.row]}
    rows |= {_named(row, size): _at(experiment.rows[row], Spot(overrides=size))
             for row, sizes in budget.sizes.items() for size in sizes}
    cost = Metric(name="cost", stage="generate", field="cost_tokens")
    return experiment.model_copy(update={"rows": rows, "metrics": [cost], "derived": [], "trace": 0})


def fitted(experiment: Experiment, unit: str, cells: Iterable[Cell], layout: Layout) -> Experiment:
    """The experiment with each free size chosen at every model and column, and told in the row's note.

    `cells` are those of `trials`. Raises UserError where one of them has no responses.
    """
    budget, costs = experiment.budget, _costs(unit, cells, layout)
    assert budget is not None
    rows = dict(experiment.rows)
    for row, sizes in budget.sizes.items():
        told = []
        for model in experiment.backbones:
            for column in experiment.columns:
                most = costs[budget.row, model, column]
                within = [size for size in sizes if costs[_named(row, size), model, column] <= most]
                size = within[-1] if within else sizes[0]
                rows[row] = _at(rows[row], Spot(model=model, column=column, overrides=size))
                place = ", ".join(part for part in (model if experiment.models else "", column) if part)
                told.append(f"{place}: {' '.join(size)}, {costs[_named(row, size), model, column]:.0f} of {most:.0f} "
                            f"{unit} a response{'' if within else ', though the smallest costs more'}")
        note = "; ".join(part for part in (rows[row].note, *told) if part)
        rows[row] = rows[row].model_copy(update={"note": note})
    return experiment.model_copy(update={"rows": rows})


def _named(row: str, size: list[str]) -> str:
    return f"{row} · {' '.join(size)}"


def _at(row: Row, spot: Spot) -> Row:
    return row.model_copy(update={"at": [*row.at, spot]})


def _costs(unit: str, cells: Iterable[Cell], layout: Layout) -> dict[tuple[str, str, str], float]:
    """What a sampled response costs on average, by row, model and column, over all seeds."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for cell in cells:
        key = cell.stages["generate"].key
        if not layout.committed(key):
            raise UserError(f"budget: row '{cell.row}' has no responses to count: run the table without budget= "
                            "and see what fails")
        rows = read_jsonl(layout.object(key) / "responses.jsonl")
        found.setdefault((cell.row, cell.model, cell.column), []).extend(
            sum(row[name] for name in UNITS[unit]) for row in rows if row["mode"] == "sample")
    return {place: fmean(costs) for place, costs in found.items()}
