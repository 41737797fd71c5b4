"""Tasks: prompts to answer, demonstrations to imitate, and what can be told of a response without a model.

The file system is the registry: `get("countdown")` imports `rlfamily/tasks/countdown.py`. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Protocol, Self

from pydantic import Field, SerializeAsAny, model_validator

from rlfamily import metrics, rewards
from rlfamily.examples import FewerPrompts
from rlfamily.judges import JudgeConfig
from rlfamily.metrics import AnyMetric
from rlfamily.plugins import Plugins
from rlfamily.records import LEFT_OUT as LEFT_OUT
from rlfamily.rewards import AnyReward
from rlfamily.settings import Distribution, Limits, RewardModelSettings, Strict, by_kind


class Gate(Strict):
    """A base model is refused when the mean of this part of its score on validation prompts is below `least`."""

    part: str
    least: float


class Pretraining(Strict):
    """How much of the task's corpus a from-scratch base model reads (`lines`, `epochs` times), and its gate."""

    lines: int = Field(gt=0)
    epochs: int = Field(gt=0)
    gate: Gate


class Lesson(Strict):
    """What a run takes of a task: `prompts` of its training prompts, within `limits`, under a reward (null: none).

    `fewer_prompts` says what to do when the training split has fewer.
    """

    task: str
    prompts: int = Field(gt=0)
    fewer_prompts: FewerPrompts
    limits: Limits
    reward: AnyReward | None


class Data(Strict):
    """Common part of what every task's files depend on."""

    kind: str


class TaskConfig(Strict):
    """What the trainer and the evaluation read of any task. Lengths in tokens.

    `max_tokens_...` bound prompt and response together, `max_new_tokens_...` the response alone (null: no bound but
    that); what meets either is truncated.
    `prompt_fraction` is the share of an algorithm's `prompts` that this task takes (1 at paper scale); when the
    training split has fewer, `fewer_prompts` says whether to `refuse`, to `repeat` it, or to `take` what there is;
    the evaluation draws `eval_draws` responses at `eval_temperature` to each of `eval_prompts` held-out prompts (of
    several benchmarks a share of each), each token among the `eval_top_k` likeliest (0: all) and the likeliest that
    reach `eval_top_p` together, after `eval_repetition_penalty` (1.0: none) and `eval_no_repeat_ngram` (0: none), in
    the greedy response as well.
    `metrics` measure a response beside its reference, by the name that the rows of scores have for it.
    `reward` is the task's own reward: any whose needs the task gives. `reward_model` says how a learned one is fitted
    to preferences which that reward labels, for algorithms that ask for one; `pretrain`, how a from-scratch base model
    is trained; `judge`, who compares two responses. Each of the three may be null.
    """

    kind: str
    max_tokens_rollout: int = Field(gt=0)
    max_tokens_evaluation: int = Field(gt=0)
    max_tokens_demonstration: int = Field(gt=0)
    max_new_tokens_rollout: int | None = Field(gt=0)
    max_new_tokens_evaluation: int | None = Field(gt=0)
    min_new_tokens: int = Field(ge=0)
    prompt_fraction: float = Field(gt=0, le=1)
    fewer_prompts: FewerPrompts
    eval_prompts: int = Field(gt=0)
    eval_draws: int = Field(gt=0)
    eval_greedy: bool
    eval_temperature: float = Field(gt=0)
    eval_top_k: int = Field(ge=0)
    eval_top_p: float = Field(gt=0, le=1)
    eval_repetition_penalty: float = Field(gt=0)
    eval_no_repeat_ngram: int = Field(ge=0)
    metrics: dict[str, AnyMetric]
    reward: AnyReward
    reward_model: RewardModelSettings | None
    pretrain: Pretraining | None
    judge: JudgeConfig | None

    @property
    def test_prompts(self) -> int | None:
        """How many prompts the test split has; None where only the data tell."""
        return None

    @property
    def benchmarks(self) -> list[str]:
        """The names that test examples have as their `benchmark`; empty where they have none."""
        return []

    @property
    def subsets(self) -> list[str]:
        """The names that held-out pairs have as their `subset`; empty where there are none."""
        return []

    @property
    def data(self) -> Data:
        """What the task's files depend on: `kind`, and what the task adds to these settings that its `Data` names."""
        schema = get(self.kind).Data
        return schema.model_validate(self.model_dump(include=set(schema.model_fields)))

    @property
    def rollout(self) -> Limits:
        """What bounds a training response."""
        return Limits(max_tokens=self.max_tokens_rollout, max_new_tokens=self.max_new_tokens_rollout,
                      min_new_tokens=self.min_new_tokens)

    def lesson(self, prompts: int, limits: Limits, rewarded: bool) -> Lesson:
        """What a run takes that asks for `prompts`: that times the task's fraction, at least 1."""
        return Lesson(task=self.kind, prompts=max(1, round(prompts * self.prompt_fraction)), limits=limits,
                      fewer_prompts=self.fewer_prompts, reward=self.reward.unsourced() if rewarded else None)

    @property
    def evaluation(self) -> Limits:
        """What bounds a held-out response."""
        return Limits(max_tokens=self.max_tokens_evaluation, max_new_tokens=self.max_new_tokens_evaluation,
                      min_new_tokens=self.min_new_tokens)

    @property
    def distribution(self) -> Distribution:
        """What held-out responses are drawn from."""
        return Distribution.model_validate({name: getattr(self, f"eval_{name}") for name in Distribution.model_fields})

    @model_validator(mode="after")
    def _check_eval_prompts(self) -> Self:
        if self.test_prompts is not None and self.eval_prompts > self.test_prompts:
            raise ValueError(f"eval_prompts={self.eval_prompts} but the test split has {self.test_prompts} prompts: "
                             "lower the one or raise the other (task.source)")
        return self

    @model_validator(mode="after")
    def _check_limits(self) -> Self:
        for what, limits in (("rollout", self.rollout), ("evaluation", self.evaluation)):
            new, total = f"max_new_tokens_{what}", f"max_tokens_{what}={limits.max_tokens}"
            if limits.longest < limits.min_new_tokens:
                name = f"{new}={limits.max_new_tokens}" if limits.max_new_tokens else total
                raise ValueError(f"min_new_tokens={limits.min_new_tokens} is above {name}: lower the one or raise the "
                                 "other")
            if limits.max_new_tokens and limits.max_new_tokens >= limits.max_tokens:
                raise ValueError(f"{total} leaves no room for a prompt beside {new}={limits.max_new_tokens}: raise the "
                                 "one or lower the other")
        return self

    @model_validator(mode="after")
    def _check_metrics(self) -> Self:
        if self.metrics and metrics.NEEDED not in get(self.kind).GIVES:
            raise ValueError(f"metrics compare a response with a {metrics.NEEDED}, which this task does not give: set "
                             "metrics: {}")
        for name, one in self.metrics.items():
            if name != one.kind:
                raise ValueError(f"metrics.{name} is of kind {one.kind}: give it the name of its kind")
        return self

    @model_validator(mode="after")
    def _check_reward(self) -> Self:
        lacking = sorted(rewards.get(self.reward.kind).NEEDS - get(self.kind).GIVES)
        if lacking:
            raise ValueError(f"reward.kind={self.reward.kind} needs {', '.join(lacking)} of each response or prompt, "
                             "which this task does not give")
        return self


class Task(Protocol):
    """What a module in this folder offers."""

    VERSION: str
    """Changed by hand when the numbers change: of the files or of `score`."""

    GIVES: frozenset[str]
    """Names of what `score` tells and of what examples hold in their meta, which a reward may need."""

    HAS: frozenset[str]
    """What methods may learn from besides their own responses: `demonstrations` to imitate, `logged` responses."""

    @property
    def Config(self) -> type[TaskConfig]:
        """Its settings."""
        ...

    @property
    def Data(self) -> type[Data]:
        """What the files depend on: `kind` and others of those settings."""
        ...

    def build(self, data: Any, out: Path) -> dict[str, Any]:
        """Write the task's files into `out`, a function of `data` (a `Data`); return a summary, `LEFT_OUT` in it.

        train.jsonl, validation.jsonl, test.jsonl hold examples; demonstrations_train.jsonl and
        demonstrations_validation.jsonl hold demonstrations; logged_train.jsonl and logged_validation.jsonl, where the
        task has them, a line a prompt with its logged responses; corpus.jsonl (demonstrations to pretrain a base
        model on), vocabulary.json (a list of every word that may occur) and preferences_<name>.jsonl (rows of prompt,
        chosen, rejected, to train reward models on) exist only for generated data; pairs_test.jsonl holds pairs that
        reward models are measured by, where the task has them. A test example whose meta names a `benchmark` is scored
        under that name.
        Raises UserError when the data cannot be had.
        """
        ...

    def score(self, response: str, meta: Mapping[str, Any]) -> dict[str, float]:
        """What can be told of one response (without its prompt) without any model, by name; nothing for most hub data.

        Verdicts of a checker are `format` (an answer was found and is well formed) and `valid` (it is right), 0 or 1;
        a stand-in's hidden true reward is `gold`. Never raises, whatever the response, and is quick.
        """
        ...


TASKS = Plugins[Task]("tasks", "task.kind", "task")
names, get = TASKS.names, TASKS.get


AnyData = Annotated[SerializeAsAny[Data], by_kind(lambda kind: get(kind).Data)]
