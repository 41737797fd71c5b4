"""From configurations to stages: which nodes make up a cell, and which cells make up an experiment."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from rlfamily import composing, fields
from rlfamily.composing import expand
from rlfamily.config import RunConfig, build
from rlfamily.errors import UserError, nearest
from rlfamily.experiment import UNTRAINED, Contender, Experiment
from rlfamily.nodes import Planner
from rlfamily.stages.graph import Node

ROLES = ("train", "generate", "score", "logprobs", "targets", "accuracy", "latency")


@dataclass(frozen=True)
class Cell:
    """One value of a table before aggregation: coordinates, overrides, resolved configuration, stages by role."""

    model: str
    row: str
    column: str
    seed: int
    overrides: list[str]
    config: RunConfig
    stages: dict[str, Node] = field(default_factory=dict)


def cells(
    experiment: Experiment, scale: str, extra: Iterable[str] = (), seeds: list[int] | None = None,
    rows: Iterable[str] | None = None,
) -> list[Cell]:
    """Every cell of an experiment: models, in them rows, in them columns. `rows` limits them (None: every row).

    `extra` overrides come last and hold for every row. Raises UserError for an unknown scale, a refused
    configuration, or a metric of what nobody measures.
    """
    if scale not in experiment.scales:
        raise UserError(f"scale: no '{scale}' in this experiment{nearest(scale, experiment.scales)}; "
                        f"it has {', '.join(experiment.scales)}")
    table = _Table(experiment, scale, list(extra))
    chosen = list(experiment.rows if rows is None else rows)
    made = [cell for model in experiment.backbones for row in experiment.rows if row in chosen
            for column in experiment.columns
            for cell in table.cells(model, row, column, seeds or experiment.scales[scale].seeds)]
    fields.check(experiment, {column: [cell.config for cell in made if cell.column == column]
                              for column in experiment.columns})
    return made


@dataclass(frozen=True)
class _Table:
    """Plans the cells of one experiment. Places with equal overrides (benchmarks of one run) are composed once."""

    experiment: Experiment
    scale: str
    extra: list[str]
    composed: dict[tuple[str, ...], RunConfig] = field(default_factory=dict)
    planned: dict[tuple[object, ...], dict[str, Node]] = field(default_factory=dict)

    def cells(self, model: str, row: str, column: str, seeds: Iterable[int]) -> list[Cell]:
        """One place at every seed."""
        overrides, config = self._resolved(model, row, column, self.experiment.rows[row])
        check_draws(self.experiment, config.task.eval_draws)
        opponent = self.experiment.opponent(row, column)
        against = self._resolved(model, row, column, opponent) if opponent else None
        name = self._opponent_name(row, column)
        made, table = [], f"{self.experiment.paper} {self.experiment.place}".strip()
        for seed in seeds:
            seeded = config.model_copy(update={"seed": seed})
            known = (*overrides, "against", *(against[0] if against else ()), seed)
            if known not in self.planned:
                self.planned[known] = self._stages(
                    Planner(seeded, self._label(model, row, column, seed), table),
                    Planner(against[1].model_copy(update={"seed": seed}),
                            self._label(model, name, column, seed), table) if against else None)
            made.append(Cell(model, row, column, seed, [*overrides, f"seed={seed}"], seeded, self.planned[known]))
        return made

    def _stages(self, planner: Planner, opponent: Planner | None) -> dict[str, Node]:
        theory = self.experiment.theory
        if theory:
            return {"theory": planner.theory(theory.checks, theory.seed)}
        nodes = _nodes(planner, self.experiment.stages)
        if self.experiment.trace:
            nodes["trace"] = planner.trace(self.experiment.trace)
        return nodes | {"judge": planner.judge(opponent)} if opponent and "judge" in self.experiment.stages else nodes

    def _opponent_name(self, row: str, column: str) -> str:
        against = self.experiment.against(row, column)
        return against if isinstance(against, str) else f"{row} (opponent)"

    def _label(self, model: str, row: str, column: str, seed: int) -> str:
        """What distinguishes a stage; columns that share their runs are not named."""
        runs = {str(spec.overrides) for spec in self.experiment.columns.values()}
        parts = [row, model if len(self.experiment.backbones) > 1 else "", column if len(runs) > 1 else "",
                 f"seed {seed}"]
        return " · ".join(part for part in parts if part)

    def _resolved(self, model: str, row: str, column: str, contender: Contender) -> tuple[list[str], RunConfig]:
        overrides = _fitting([*self.experiment.overrides(self.scale, model, column, contender), *self.extra])
        if any(override.startswith("seed=") for override in overrides):
            raise UserError(f"row '{row}': a table has its own seeds: write seeds=0,1 instead of seed=0")
        if tuple(overrides) not in self.composed:
            if len(expand(overrides)) > 1:
                raise UserError(f"row '{row}': sweeps belong on the train command line, a cell has one value per key")
            self.composed[tuple(overrides)] = _located(row, column, overrides)
        return overrides, self.composed[tuple(overrides)]


def stages(config: RunConfig, roles: Iterable[str], label: str = "") -> dict[str, Node]:
    """The nodes of one cell by role: `roles`, of train, score and logprobs, and train whenever the cell has one."""
    return _nodes(Planner(config, label or config.names["algorithm"]), roles)


def _nodes(planner: Planner, roles: Iterable[str]) -> dict[str, Node]:
    """The nodes of a policy; one that is not trained has no run, a judged one has scores."""
    wanted = set(roles)
    if not wanted:
        return {}
    if "judge" in wanted:
        wanted.add("score")
    train = {"train": planner.train} if planner.config.trained and wanted != {"targets"} else {}
    return train | {role: getattr(planner, role) for role in ROLES[1:] if role in wanted}


def check_draws(experiment: Experiment, sampled: int) -> None:
    """Raises UserError when a score's name asks for more responses to a prompt than are sampled."""
    for metric in experiment.metrics:
        there = 1 if metric.where.get("mode") == "greedy" else sampled
        if metric.draws > there:
            raise UserError(f"metric '{metric.name}' needs {metric.draws} responses to a prompt, {there} drawn: "
                            f"set task.eval_draws={metric.draws} or more, or rename it")


def _fitting(overrides: list[str]) -> list[str]:
    """The overrides of a row. Scale, model, column and command line give settings to every row: one that trains nothing
    leaves out those of training, and takes only where it starts; a decoder leaves out those that only others have."""
    decoder = [one.removeprefix("decoding=") for one in overrides if one.startswith("decoding=")][-1:] or ["plain"]
    kept = [one for one in overrides if not _of_other_decoders(one, decoder[0])]
    if [one for one in overrides if one.startswith("algorithm=")][-1:] != [UNTRAINED]:
        return kept
    return [one for one in kept if not one.startswith("algorithm.") or one.startswith("algorithm.warm_start=")]


def _of_other_decoders(override: str, chosen: str) -> bool:
    path = override.partition("=")[0].split(".")
    known = composing.choices("decoding")
    return (path[0] == "decoding" and len(path) > 1 and chosen in known
            and path[1] not in composing.keys("decoding", chosen)
            and any(path[1] in composing.keys("decoding", name) for name in known))


def _located(row: str, column: str, overrides: list[str]) -> RunConfig:
    try:
        return build(overrides)
    except UserError as error:
        raise UserError(f"row '{row}', column '{column}': {error}") from error
