"""An experiment: one yaml in experiments/ = one paper table or figure, as models x rows x columns x seeds of overrides.

Overrides are ordinary Hydra override lists: a cell's are those of its scale, model, column, row, the row's own spots,
and the command line, in that order, so what comes later wins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BeforeValidator, Field, ValidationError, model_validator
from yaml import YAMLError

from rlfamily.errors import UserError, describe, nearest
from rlfamily.quantities import CELL_STAGES, Closed, Derived, Metric, Where

REPOSITORY = Path(__file__).resolve().parent.parent
EXPERIMENTS = REPOSITORY / "experiments"
UNTRAINED = "algorithm=none"

Overrides = list[str] | dict[str, list[str]]


class Scale(Closed):
    """What one scale adds to every cell: its seeds and its base overrides."""

    seeds: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    base: list[str]


class Spot(Closed):
    """Further overrides of a row at one model, one column, or one of both ("" means every one)."""

    model: str = ""
    column: str = ""
    overrides: Overrides


class Contender(Closed):
    """A policy to score: trained as `overrides` say, or, with algorithm=none, the one training would start from."""

    overrides: Overrides
    at: list[Spot] = Field(default_factory=list)

    @property
    def untrained(self) -> bool:
        """True when its own overrides train nothing."""
        own = [self.overrides] if isinstance(self.overrides, list) else self.overrides.values()
        return any(UNTRAINED in overrides for overrides in own)


class Column(Closed):
    """One task or benchmark. Several benchmarks may share a run: then `where` picks their rows of its scores.

    `against` is the opponent of every row that has none of its own.
    """

    overrides: Overrides
    where: Where = Field(default_factory=dict)
    against: str | Contender | None = None


class Row(Contender):
    """One method of the table.

    published  the row's label in the published csv ("" when the paper prints no number for it)
    protocol   under which rules it was run ("as reported", "honest", ...); `note` is printed beside it
    where      keep only the score, judge or theory rows with these values
    optional   planned and run only when asked for: rows=all or rows="A,B"
    against    the opponent of a judged row: another row's name, or a contender of its own
    """

    published: str = ""
    protocol: str = ""
    note: str = ""
    where: Where = Field(default_factory=dict)
    optional: bool = False
    against: str | Contender | None = None


class Theory(Closed):
    """The checks that the one theory stage of an experiment runs."""

    checks: list[str] = Field(min_length=1)
    seed: int = Field(ge=0)


def _quoted(text: str) -> str:
    """A value that Hydra's grammar reads as this text."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


class Budget(Closed):
    """What tables at an equal budget compare: every size of `sizes`, smallest first, must cost no more than `row`."""

    row: str
    sizes: dict[str, Annotated[list[list[str]], Field(min_length=1)]] = Field(min_length=1)


def _bare(value: Any) -> Any:
    return {"overrides": value} if isinstance(value, list) else value


class Experiment(Closed):
    """A paper table or figure. A row or a column may be a bare override list when nothing else needs saying.

    `model` names the only model; `models` names several, each with its overrides. `trace`: of how many prompts pages of
    samples show how the first sampled response came about.
    """

    title: str
    paper: str
    place: str
    about: str
    kind: Literal["table", "settings", "curves", "histogram", "samples", "theory"]
    published: str = ""
    model: str = ""
    models: dict[str, Overrides] = Field(default_factory=dict)
    scales: dict[str, Scale] = Field(min_length=1)
    rows: dict[str, Annotated[Row, BeforeValidator(_bare)]] = Field(min_length=1)
    columns: dict[str, Annotated[Column, BeforeValidator(_bare)]] = Field(min_length=1)
    metrics: list[Metric] = Field(min_length=1)
    derived: list[Derived] = Field(default_factory=list)
    theory: Theory | None = None
    budget: Budget | None = None
    trace: int = Field(default=0, ge=0)

    @property
    def stages(self) -> list[str]:
        """The stages a cell must reach, in order: its metrics say which."""
        used = {metric.stage for metric in self.metrics}
        used |= {"train"} if "timings" in used else set()
        return [stage for stage in (*CELL_STAGES, "theory") if stage in used]

    @property
    def backbones(self) -> dict[str, Overrides]:
        """Every model with its overrides; the single one has none."""
        return self.models or {self.model: []}

    @property
    def start(self) -> str:
        """The row of the untrained policy, "" when there is none."""
        return next((name for name, row in self.rows.items() if row.untrained), "")

    def overrides(self, scale: str, model: str, column: str, contender: Contender) -> list[str]:
        """What one contender at one model and column overrides, the command line's apart."""
        own = [spot.overrides for spot in contender.at if spot.model in ("", model) and spot.column in ("", column)]
        parts = [self.scales[scale].base, self.backbones[model], self.columns[column].overrides, contender.overrides,
                 *own]
        return [one for part in parts for one in (part.get(scale, []) if isinstance(part, dict) else part)]

    def opponent(self, row: str, column: str) -> Contender | None:
        """Whom a judged row is compared with in a column; None when nobody."""
        against = self.against(row, column)
        return self.rows[against] if isinstance(against, str) else against

    def against(self, row: str, column: str) -> str | Contender | None:
        """The opponent as it is written: a row's own, or the column's."""
        return self.rows[row].against or self.columns[column].against

    def with_outputs(self, files: Mapping[str, str]) -> Experiment:
        """With a row for each file of responses (a path by the row's name), scored and judged as the others are.

        Raises UserError where a row has that name, where nothing is scored, and where only rows have opponents.
        """
        for name in files:
            if name in self.rows:
                raise UserError(f"outputs.{name}: the table has a row '{name}': give the file another name")
            if not {"score", "judge"} & {*self.stages}:
                raise UserError(f"outputs.{name}: this table scores no responses: name one that does")
            if "judge" in self.stages and not all(column.against for column in self.columns.values()):
                raise UserError(f"outputs.{name}: each row of this table has an opponent of its own: name a table "
                                "whose columns have them")
        rows = {name: Row(overrides=[UNTRAINED, f"responses={_quoted(path)}"], note="responses from a file")
                for name, path in files.items()}
        return self.model_copy(update={"rows": self.rows | rows})

    def named_metrics(self) -> dict[str, Metric]:
        """Metrics by name."""
        return {metric.name: metric for metric in self.metrics}

    @model_validator(mode="after")
    def _check_names(self) -> Experiment:
        if self.model and self.models:
            raise ValueError("give model or models, not both")
        if twice := [scale.seeds for scale in self.scales.values() if len({*scale.seeds}) < len(scale.seeds)]:
            raise ValueError(f"seeds={twice[0]} names one twice, which is one run: name each once")
        for kind, name, known in self._references():
            if name not in known:
                raise ValueError(f"there is no {kind} '{name}'{nearest(name, known)}")
        if ("theory" in self.stages) != (self.theory is not None):
            raise ValueError("metrics of stage theory and the key theory belong together")
        if self.theory and self.stages != ["theory"]:
            raise ValueError("metrics of stage theory stand in an experiment of their own")
        opponents = [self.against(row, column) for row in self.rows for column in self.columns]
        if "judge" in self.stages and not all(opponents):
            raise ValueError("every row of a judged table says against whom, or every column")
        return self

    def _references(self) -> Iterable[tuple[str, str, Iterable[str]]]:
        """(what, name, names there are) of everything that is referred to by name."""
        metrics = [metric.name for metric in self.metrics]
        for metric in self.metrics:
            yield from (("metric", name, metrics) for name in (metric.std, metric.watch, metric.seed_of) if name)
        for one in self.derived:
            yield "metric", one.of, metrics
            yield from (("column", column, self.columns) for column in one.over)
        if self.budget:
            yield from (("row", row, self.rows) for row in (self.budget.row, *self.budget.sizes))
        contenders: list[Contender] = [*self.rows.values()]
        spoken: list[Row | Column] = [*self.rows.values(), *self.columns.values()]
        for against in [one.against for one in spoken]:
            if isinstance(against, str):
                yield "row", against, self.rows
            elif against:
                contenders.append(against)
        for spot in (spot for one in contenders for spot in one.at):
            yield from [("model", spot.model, self.backbones)] if spot.model else []
            yield from [("column", spot.column, self.columns)] if spot.column else []
        parts = [*self.models.values(), *(column.overrides for column in self.columns.values()),
                 *(one.overrides for one in contenders),
                 *(spot.overrides for one in contenders for spot in one.at)]
        yield from (("scale", scale, self.scales) for part in parts if isinstance(part, dict) for scale in part)


def names(folder: Path = EXPERIMENTS) -> list[str]:
    """Every experiment that has a yaml, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def papers(folder: Path = EXPERIMENTS) -> dict[str, list[str]]:
    """Experiments by paper: what stands before the first underscore of their names."""
    found: dict[str, list[str]] = {}
    for name in names(folder):
        found.setdefault(name.partition("_")[0], []).append(name)
    return found


def load(name: str, folder: Path = EXPERIMENTS) -> Experiment:
    """Read and check experiments/<name>.yaml. Raises UserError (one line) when it is missing or wrong."""
    if name not in names(folder):
        known = [*names(folder), *papers(folder)]
        raise UserError(f"table: no experiment '{name}' in {folder.name}/{nearest(name, known)}")
    path = folder / f"{name}.yaml"
    try:
        return Experiment.model_validate(OmegaConf.to_container(OmegaConf.load(path)))
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise UserError(f"{folder.name}/{name}.yaml: not readable as yaml: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        raise UserError(f"{folder.name}/{name}.yaml: {describe(error, Experiment)}") from error
