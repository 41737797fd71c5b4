"""An experiment: one yaml in experiments/ = one paper table or figure, as models x rows x columns x seeds of overrides.

Overrides are ordinary Hydra override lists: a cell's are those of its scale, model, column, row, the row's own spots,
and the command line, in that order, so what comes later wins.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from yaml import YAMLError

from rlfamily.errors import UserError, describe, nearest

REPOSITORY = Path(__file__).resolve().parent.parent
EXPERIMENTS = REPOSITORY / "experiments"
READ = ("score", "judge", "theory")  # the stages whose rows a column's or a row's `where` may narrow
CELL_STAGES = ("train", "score", "logprobs", "judge")
UNTRAINED = "algorithm=none"

Overrides = list[str] | dict[str, list[str]]
Where = dict[str, str | int | float]


class Closed(BaseModel):
    """Closed and frozen: a misspelt key in an experiment is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Scale(Closed):
    """What one scale adds to every cell: its seeds and its base overrides."""

    seeds: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    base: list[str]


class Column(Closed):
    """One task or benchmark. Several benchmarks may share a run: then `where` picks their rows of its scores."""

    overrides: Overrides
    where: Where = {}


class Spot(Closed):
    """Further overrides of a row at one model, one column, or one of both ("" means every one)."""

    model: str = ""
    column: str = ""
    overrides: Overrides


class Contender(Closed):
    """A policy to score: trained as `overrides` say, or, with algorithm=none, the one training would start from."""

    overrides: Overrides
    at: list[Spot] = []

    @property
    def untrained(self) -> bool:
        """True when its own overrides train nothing."""
        own = [self.overrides] if isinstance(self.overrides, list) else self.overrides.values()
        return any(UNTRAINED in overrides for overrides in own)


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
    where: Where = {}
    optional: bool = False
    against: str | Contender | None = None


class Quantity(Closed):
    """One number of the table as it is shown.

    better     which direction is good; "" when the number ranks nothing
    published  metric label in the published csv, when it differs from `name`
    shown      False for numbers that only claims use, or that stand beside another (`std`)
    std        name of the metric to print behind this one as a spread over trials
    watch      name of the metric that must not fall while this one rises above the untrained row: reward hacking
    """

    name: str
    better: Literal["higher", "lower", ""] = ""
    published: str = ""
    digits: int = 4
    shown: bool = True
    std: str = ""
    watch: str = ""


class Metric(Quantity):
    """A number read from an artifact of the cell.

    stage    config (a resolved setting), train (metrics.jsonl, a value a step), score (scores.jsonl, a value a
             response), logprobs (logprobs.jsonl, a value an example), judge (judgements.jsonl, a value a pair),
             theory (theory.jsonl, a value a check)
    field    dotted key (config) or field of the jsonl rows
    times    factor of the rows' values, e.g. 100 for percent
    where    keep only rows with these values, e.g. {mode: greedy}
    reduce   mean | std (over the rows) | slope (least squares, per unit of training progress) | last |
             trial_std (over the draws, of the mean over the items; a judge's rows count that `where` keeps)
    window   only the final fraction of the rows
    per_item what several draws of one item count: mean, or any (the greatest: 1 when any draw has it; of Pass@k the
             unbiased chance that one of k draws has it)
    over_seeds  mean, or best (the paper's best of its seeds); `seed_of`: that of the metric whose best seed this is
    """

    stage: Literal["config", "train", "score", "logprobs", "judge", "theory"]
    field: str
    times: float = 1.0
    where: Where = {}
    reduce: Literal["mean", "std", "slope", "last", "trial_std", "corpus_bleu", "corpus_sacrebleu"] = "mean"
    window: float = Field(default=1.0, gt=0, le=1)
    per_item: Literal["mean", "any"] = "mean"
    over_seeds: Literal["mean", "best"] = "mean"
    seed_of: str = ""

    @property
    def draws(self) -> int:
        """How many responses to an item a score needs: the k of a name such as Pass@k or Avg@k; 0 when it has none."""
        match = re.search(r"@(\d+)", self.name) if self.stage == "score" else None
        return int(match[1]) if match else 0

    @model_validator(mode="after")
    def _check_best(self) -> Metric:
        if self.over_seeds == "best" and not self.better:
            raise ValueError(f"metric '{self.name}' takes the best seed: say which is better, higher or lower")
        return self


class Derived(Closed):
    """A number computed from other columns of the same row, shown as a column of its own.

    operation  mean | signed_geometric_mean: the root of the absolute product, with the product's sign
    """

    column: str
    metric: str
    of: str
    over: list[str] = Field(min_length=2)
    operation: Literal["mean", "signed_geometric_mean"]
    better: Literal["higher", "lower", ""] = ""
    published: str = ""
    digits: int = 4
    shown: bool = True

    @property
    def quantity(self) -> Quantity:
        """The number as it is shown."""
        return Quantity(name=self.metric, better=self.better, published=self.published, digits=self.digits,
                        shown=self.shown)


class Theory(Closed):
    """The checks that the one theory stage of an experiment runs."""

    checks: list[str] = Field(min_length=1)
    seed: int = Field(ge=0)


def _bare(value: Any) -> Any:
    return {"overrides": value} if isinstance(value, list) else value


class Experiment(Closed):
    """A paper table or figure. A row or a column may be a bare override list when nothing else needs saying.

    `model` names the only model; `models` names several, each with its overrides.
    """

    title: str
    paper: str
    place: str
    about: str
    kind: Literal["table", "settings", "curves", "histogram", "samples", "theory"]
    published: str = ""
    model: str = ""
    models: dict[str, Overrides] = {}
    scales: dict[str, Scale] = Field(min_length=1)
    rows: dict[str, Annotated[Row, BeforeValidator(_bare)]] = Field(min_length=1)
    columns: dict[str, Annotated[Column, BeforeValidator(_bare)]] = Field(min_length=1)
    metrics: list[Metric] = Field(min_length=1)
    derived: list[Derived] = []
    theory: Theory | None = None

    @property
    def stages(self) -> list[str]:
        """The stages a cell must reach, in order: its metrics say which."""
        used = {metric.stage for metric in self.metrics}
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

    def opponent(self, row: str) -> Contender | None:
        """Whom a judged row is compared with; None when nobody."""
        against = self.rows[row].against
        return self.rows[against] if isinstance(against, str) else against

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
        if "judge" in self.stages and any(row.against is None for row in self.rows.values()):
            raise ValueError("every row of a judged table says against whom")
        return self

    def _references(self) -> Iterable[tuple[str, str, Iterable[str]]]:
        """(what, name, names there are) of everything that is referred to by name."""
        metrics = [metric.name for metric in self.metrics]
        for metric in self.metrics:
            yield from (("metric", name, metrics) for name in (metric.std, metric.watch, metric.seed_of) if name)
        for one in self.derived:
            yield "metric", one.of, metrics
            yield from (("column", column, self.columns) for column in one.over)
        contenders: list[Contender] = [*self.rows.values()]
        for row in self.rows.values():
            if isinstance(row.against, str):
                yield "row", row.against, self.rows
            elif row.against:
                contenders.append(row.against)
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
