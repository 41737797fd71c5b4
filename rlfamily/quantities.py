"""The numbers of an experiment: what each is read from, how it is reduced, how it is shown."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

READ = ("score", "judge", "theory", "targets", "accuracy")  # stages whose rows the `where` of a column or row narrows
STEPS = ("train", "timings")  # a value a training step: neighbours depend on each other
CELL_STAGES = ("train", "generate", "score", "logprobs", "targets", "accuracy", "latency", "judge")

Where = dict[str, str | int | float]


class Closed(BaseModel):
    """Closed and frozen: a misspelt key in an experiment is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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

    stage    config (a resolved setting), train (metrics.jsonl, a value a step), timings (timings.jsonl of the same
             stage, a value a step), generate (responses.jsonl, what each response cost, whatever column shares them),
             score (scores.jsonl, a value a response), logprobs (logprobs.jsonl, a value an example), targets
             (targets.jsonl, a value a logged response), accuracy (accuracy.jsonl, a value a held-out pair), latency
             (latency.jsonl, a value a response), judge (judgements.jsonl, a value a pair), theory (theory.jsonl, a
             value a check)
    field    dotted key (config) or field of the jsonl rows
    times    factor of the rows' values, e.g. 100 for percent
    where    keep only rows with these values, e.g. {mode: greedy}
    reduce   mean | sum | std (over the rows) | slope (least squares, per unit of training progress) | last |
             trial_std (over the draws, of the mean over the items; a judge's rows count that `where` keeps) |
             corpus_bleu, corpus_sacrebleu (of counts) | lc_win_rate (of a judge's field `controlled`)
    window   only the final fraction of the rows
    per_item what several draws of one item count: mean, or any (the greatest: 1 when any draw has it; of Pass@k the
             unbiased chance that one of k draws has it), or best (of Best@k the unbiased mean of what the draw has
             that ranks first by `ranked_by` among k of them: best-of-1 to best-of-N from N draws)
    over_seeds  mean, or best (the paper's best of its seeds); `seed_of`: that of the metric whose best seed this is
    """

    stage: Literal["config", "train", "timings", "generate", "score", "logprobs", "targets", "accuracy",
                   "latency", "judge", "theory"]
    field: str
    times: float = 1.0
    where: Where = {}
    reduce: Literal["mean", "sum", "std", "slope", "last", "trial_std", "corpus_bleu",
                    "corpus_sacrebleu", "lc_win_rate"] = "mean"
    window: float = Field(default=1.0, gt=0, le=1)
    per_item: Literal["mean", "any", "best"] = "mean"
    ranked_by: str = ""
    over_seeds: Literal["mean", "best"] = "mean"
    seed_of: str = ""

    @property
    def draws(self) -> int:
        """How many responses to an item a score needs: the k of a name such as Pass@k or Avg@k; 0 when it has none."""
        match = re.search(r"@(\d+)", self.name) if self.stage == "score" else None
        return int(match[1]) if match else 0

    @model_validator(mode="after")
    def _check_ranked(self) -> Metric:
        if (self.per_item == "best") != bool(self.ranked_by) or (self.per_item == "best" and not self.draws):
            raise ValueError(f"metric '{self.name}': per_item: best needs ranked_by (a field of the same rows) and a "
                             "score's name with the number of draws, such as Best@4; nothing else has ranked_by")
        return self

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
