"""Tasks: prompts to answer, demonstrations to imitate, and what can be told of a response without a model.

The file system is the registry: `get("countdown")` imports `rlfamily/tasks/countdown.py`. Nothing here imports torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from pydantic import Field, SerializeAsAny

from rlfamily.errors import UserError, nearest
from rlfamily.judges import JudgeConfig
from rlfamily.rewards import RewardConfig
from rlfamily.settings import RewardModelSettings, Strict


class Gate(Strict):
    """A base model is refused when the mean of this part of its score on validation prompts is below `least`."""

    part: str
    least: float


class Pretraining(Strict):
    """How much of the task's corpus a from-scratch base model reads (`lines`, `epochs` times), and its gate."""

    lines: int = Field(gt=0)
    epochs: int = Field(gt=0)
    gate: Gate


class TaskConfig(Strict):
    """What the trainer and the evaluation read of any task. Lengths in tokens, prompt and response together.

    `prompt_fraction` is the share of an algorithm's `prompts` that this task takes (1 at paper scale); when the
    training split has fewer, `reuse_prompts` says whether to go through it again or to refuse;
    the evaluation draws `eval_draws` responses at `eval_temperature` to each of `eval_prompts` held-out prompts,
    each token among the `eval_top_k` likeliest (0: all) and the likeliest that reach `eval_top_p` together.
    `reward` is the task's own reward. `reward_model` says how a learned one is fitted to preferences which that reward
    labels, for algorithms that ask for one; `pretrain`, how a from-scratch base model is trained; `judge`, who compares
    two responses. Each of the three may be null.
    """

    kind: str
    max_tokens_rollout: int = Field(gt=0)
    max_tokens_evaluation: int = Field(gt=0)
    max_tokens_demonstration: int = Field(gt=0)
    min_new_tokens: int = Field(ge=0)
    prompt_fraction: float = Field(gt=0, le=1)
    reuse_prompts: bool
    eval_prompts: int = Field(gt=0)
    eval_draws: int = Field(gt=0)
    eval_temperature: float = Field(gt=0)
    eval_top_k: int = Field(ge=0)
    eval_top_p: float = Field(gt=0, le=1)
    reward: SerializeAsAny[RewardConfig]
    reward_model: RewardModelSettings | None
    pretrain: Pretraining | None
    judge: JudgeConfig | None

    def data_settings(self) -> dict[str, Any]:
        """What the task's files depend on, as plain data: `kind` and all that a task adds to these settings."""
        return self.model_dump(mode="json", exclude=set(TaskConfig.model_fields) - {"kind"})


class Task(Protocol):
    """What a module in this folder offers."""

    VERSION: str
    """Changed by hand when the code's numbers change: part of the key of what uses it."""

    @property
    def Config(self) -> type[TaskConfig]:
        """Its settings."""
        ...

    def build(self, data: Mapping[str, Any], out: Path) -> dict[str, Any]:
        """Write the task's files into `out`, a function of `data` (see `data_settings`); return a summary.

        train.jsonl, validation.jsonl, test.jsonl hold examples; demonstrations_train.jsonl and
        demonstrations_validation.jsonl hold demonstrations; corpus.jsonl (demonstrations to pretrain a base
        model on), vocabulary.json (a list of every word that may occur) and preferences_<name>.jsonl (rows of prompt,
        chosen, rejected, to train reward models on) exist only for generated data. A test example whose meta names a
        `benchmark` is scored under that name.
        Raises UserError when the data cannot be had.
        """
        ...

    def score(self, response: str, meta: Mapping[str, Any]) -> dict[str, float]:
        """What can be told of one response (without its prompt) without any model, by name; nothing for most hub data.

        Verdicts of a checker are `format` (an answer was found and is well formed) and `valid` (it is right), 0 or 1;
        a stand-in's hidden true reward is `gold`. Never raises, whatever the response, and is quick.
        """
        ...


def names() -> list[str]:
    """Every task that has a file here, sorted."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__")


def get(kind: str) -> Task:
    """Return the module of task `kind`. Raises UserError naming the nearest task when there is none."""
    if kind not in names():
        raise UserError(f"task.kind: no task '{kind}' in rlfamily/tasks{nearest(kind, names())}")
    return cast(Task, importlib.import_module(f"rlfamily.tasks.{kind}"))
