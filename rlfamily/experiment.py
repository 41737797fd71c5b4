"""An experiment: one yaml in experiments/ = one paper table or figure, as rows x columns x seeds of Hydra overrides."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from yaml import YAMLError

from rlfamily.errors import UserError, describe, nearest

REPOSITORY = Path(__file__).resolve().parent.parent
EXPERIMENTS = REPOSITORY / "experiments"


class Part(BaseModel):
    """Closed and frozen: a misspelt key in an experiment is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Scale(Part):
    """What one scale adds to every cell: its seeds and its base overrides."""

    seeds: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    base: list[str]


class Row(Part):
    """One method of the table.

    `published` is the row's label in the published csv ("" when the paper prints no number for it);
    `protocol` says under which rules it was run ("as reported", "honest", ...); `note` is printed beside it.
    """

    overrides: list[str]
    published: str = ""
    protocol: str = ""
    note: str = ""


class Metric(Part):
    """One number of the table, read from an artifact of the cell.

    stage    config (a resolved setting), train (metrics.jsonl, one value a step), score (scores.jsonl, one value a
             response), logprobs (logprobs.jsonl, one value an example)
    field    dotted key (config) or field of the jsonl rows
    where    keep only rows with these values, e.g. {mode: greedy}
    reduce   mean | std (over the rows) | slope (least squares, per unit of training progress) | last
    window   only the final fraction of the rows
    better   which direction is good; "" when the number ranks nothing
    published  metric label in the published csv, when it differs from `name`
    shown    False for numbers that only claims use
    """

    name: str
    stage: Literal["config", "train", "score", "logprobs"]
    field: str
    where: dict[str, str | int] = {}
    reduce: Literal["mean", "std", "slope", "last"] = "mean"
    window: float = Field(default=1.0, gt=0, le=1)
    better: Literal["higher", "lower", ""] = ""
    published: str = ""
    digits: int = 4
    shown: bool = True


def _as_row(value: Any) -> Any:
    return {"overrides": value} if isinstance(value, list) else value


class Experiment(Part):
    """A paper table or figure. `rows` may be given as a bare override list when nothing else needs saying."""

    title: str
    paper: str
    place: str
    about: str
    kind: Literal["table", "settings", "curves", "histogram"]
    published: str = ""
    model: str
    scales: dict[str, Scale] = Field(min_length=1)
    rows: dict[str, Annotated[Row, BeforeValidator(_as_row)]] = Field(min_length=1)
    columns: dict[str, list[str]] = Field(min_length=1)
    metrics: list[Metric] = Field(min_length=1)

    @property
    def stages(self) -> list[str]:
        """The stages a cell must reach, in order: its metrics say which."""
        used = {metric.stage for metric in self.metrics}
        return [stage for stage in ("train", "score", "logprobs") if stage in used]


def names(folder: Path = EXPERIMENTS) -> list[str]:
    """Every experiment that has a yaml, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def load(name: str, folder: Path = EXPERIMENTS) -> Experiment:
    """Read and check experiments/<name>.yaml. Raises UserError (one line) when it is missing or wrong."""
    if name not in names(folder):
        raise UserError(f"table: no experiment '{name}' in {folder.name}/{nearest(name, names(folder))}")
    path = folder / f"{name}.yaml"
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
        return Experiment.model_validate(content)
    except (YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{folder.name}/{name}.yaml: not readable as yaml: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        raise UserError(f"{folder.name}/{name}.yaml: {describe(error, Experiment)}") from error
