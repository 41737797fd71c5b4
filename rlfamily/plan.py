"""From configurations to stages: which nodes make up a cell, and which cells make up an experiment."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from rlfamily import algorithms
from rlfamily.algorithms.settings import AlgorithmSettings
from rlfamily.config import RunConfig, algorithm_settings, build, expand
from rlfamily.errors import UserError, nearest
from rlfamily.experiment import Experiment
from rlfamily.models import Finetuning, ScratchModel
from rlfamily.stages.graph import Node

ROLES = ("train", "score", "logprobs")
_TRAINING_LIMITS = ("kind", "max_tokens_rollout", "max_tokens_demonstration", "prompt_fraction")
_GATE = ("kind", "max_tokens_rollout", "eval_prompts", "eval_temperature")
_EVALUATION = (*_GATE, "eval_draws")


@dataclass(frozen=True)
class Cell:
    """One value of a table before aggregation: coordinates, overrides, resolved configuration, stages by role."""

    row: str
    column: str
    seed: int
    overrides: list[str]
    config: RunConfig
    stages: dict[str, Node] = field(default_factory=dict)


def cells(experiment: Experiment, scale: str, extra: Iterable[str] = (), seeds: list[int] | None = None) -> list[Cell]:
    """Every cell of an experiment, rows first. Raises UserError for an unknown scale or a refused configuration.

    `extra` overrides come last and hold for every row.
    """
    if scale not in experiment.scales:
        raise UserError(f"scale: no '{scale}' in this experiment{nearest(scale, experiment.scales)}; "
                        f"it has {', '.join(experiment.scales)}")
    settings, found = experiment.scales[scale], []
    for row, spec in experiment.rows.items():
        for column, column_overrides in experiment.columns.items():
            overrides = [*settings.base, *spec.overrides, *column_overrides, *extra]
            if any(override.startswith("seed=") for override in overrides):
                raise UserError(f"row '{row}': a table has its own seeds: write seeds=0,1 instead of seed=0")
            if len(expand(overrides)) > 1:
                raise UserError(f"row '{row}': sweeps belong on the train command line, a cell has one value per key")
            config = _located(row, column, overrides)
            for seed in seeds or settings.seeds:
                seeded = config.model_copy(update={"seed": seed})
                found.append(Cell(row, column, seed, [*overrides, f"seed={seed}"], seeded,
                                  stages(seeded, experiment.stages, f"{row} · seed {seed}")))
    return found


def stages(config: RunConfig, roles: Iterable[str], label: str = "") -> dict[str, Node]:
    """The nodes of one cell by role; `roles` is a subset of train, score, logprobs, and train is always built."""
    planner = _Planner(config, label or config.names["algorithm"])
    makers: dict[str, Callable[[], Node]] = {"score": planner.score, "logprobs": planner.logprobs}
    wanted = list(roles)
    if not wanted:
        return {}
    return {"train": planner.train(), **{role: makers[role]() for role in ROLES[1:] if role in wanted}}


def _located(row: str, column: str, overrides: list[str]) -> RunConfig:
    try:
        return build(overrides)
    except UserError as error:
        raise UserError(f"row '{row}', column '{column}': {error}") from error


@cache
def _warm_start_settings() -> AlgorithmSettings:
    return algorithm_settings("sft")


@dataclass(frozen=True)
class _Planner:
    """Builds the nodes of one configuration. Equal configurations give equal keys, so sharing needs no code."""

    config: RunConfig
    label: str

    def data(self) -> Node:
        return self._node("data", self.config.task.data_settings(), {}, f"data {self.config.names['task']}")

    def base(self) -> Node:
        """The untrained policy: a hub model, or a stand-in pretrained on the task's corpus."""
        model, label = self.config.model, f"base {self.config.names['model']}"
        if not isinstance(model, ScratchModel):
            return self._node("hub", {"path": model.path, "revision": model.revision}, {}, label)
        recipe = model.pretrain
        settings = _warm_start_settings().model_copy(update={
            "prompts": recipe.prompts, "batch_prompts": recipe.batch_prompts, "epochs": recipe.epochs,
            "optimizer": recipe.optimizer, "kl_ref_every": 0})
        # How it is finetuned later cannot change the base model.
        shape = model.model_dump(mode="json") | {"finetune": "full", "lr_multiplier": 1.0}
        task = self._task("max_tokens_demonstration", *_GATE)
        return self._node("base", {"model": shape, "settings": settings.model_dump(mode="json"), "task": task},
                          {"data": self.data()}, label)

    def warm_start(self) -> Node:
        """The policy that training starts from: the base model, or the base model after SFT at the same seed."""
        if self.config.algorithm.warm_start == "base":
            return self.base()
        return self._train("sft", _warm_start_settings(), {"data": self.data(), "policy": self.base()},
                           f"SFT warm start · seed {self.config.seed}")

    def train(self) -> Node:
        """The cell's own run."""
        name, settings = self.config.names["algorithm"], self.config.algorithm
        inputs = {"data": self.data(), "policy": self.warm_start()}
        source = algorithms.get(name).SOURCE
        if source == "pairs":
            inputs["pairs"] = self._pairs(settings.prompts, settings.sampling.temperature)
        if source == "rollouts" and settings.reward == "reward_model":
            inputs["reward"] = self._reward_model()
        return self._train(name, settings, inputs, self.label)

    def score(self) -> Node:
        """Held-out scores of the cell's policy."""
        config = {"task": self._task(*_EVALUATION), "finetuning": self._frozen()}
        return self._node("score", config, {"data": self.data(), "policy": self.train()}, f"score {self.label}")

    def logprobs(self) -> Node:
        """Log-probs of the demonstrations under the cell's policy."""
        config = {"task": self._task("kind", "max_tokens_demonstration"), "finetuning": self._frozen()}
        return self._node("logprobs", config, {"data": self.data(), "policy": self.train()}, f"log-probs {self.label}")

    def _pairs(self, prompts: int, temperature: float) -> Node:
        config = {"prompts": prompts, "temperature": temperature, "finetuning": self._frozen(),
                  "task": self._task("kind", "max_tokens_rollout", "prompt_fraction"), "seed": self.config.seed}
        return self._node("pairs", config, {"data": self.data(), "policy": self.warm_start()},
                          f"preference pairs · seed {self.config.seed}")

    def _reward_model(self) -> Node:
        settings = self.config.task.reward_model
        # A reward model is trained whole.
        config = {"settings": settings.model_dump(mode="json"), "finetuning": self._finetuning() | {"finetune": "full"},
                  "task": self._task("max_tokens_demonstration"), "seed": self.config.seed}
        inputs = {"data": self.data(), "policy": self.warm_start(),
                  "pairs": self._pairs(settings.prompts, settings.temperature)}
        return self._node("reward_model", config, inputs, f"reward model · seed {self.config.seed}")

    def _train(self, name: str, settings: AlgorithmSettings, inputs: dict[str, Node], label: str) -> Node:
        config = {"algorithm": name, "settings": settings.model_dump(mode="json"), "finetuning": self._finetuning(),
                  "task": self._task(*_TRAINING_LIMITS), "seed": self.config.seed}
        return self._node("train", config, inputs, label)

    def _task(self, *keys: str) -> dict[str, Any]:
        """The task's settings that a stage reads: only these may enter its key."""
        return {key: getattr(self.config.task, key) for key in keys}

    def _finetuning(self) -> dict[str, Any]:
        return Finetuning.model_validate({name: getattr(self.config.model, name) for name in Finetuning.model_fields}
                                         ).model_dump(mode="json")

    def _frozen(self) -> dict[str, Any]:
        """A policy that is only read: its adapters are merged and its learning rate plays no part."""
        return self._finetuning() | {"finetune": "full", "lr_multiplier": 1.0}

    def _node(self, kind: str, config: dict[str, Any], inputs: dict[str, Node], label: str) -> Node:
        hardware = self.config.hardware.model_dump(mode="json")
        mirror = {"wandb": self.config.wandb, "wandb_folder": str(Path(self.config.results).resolve())}
        return Node(kind, config, inputs, hardware | mirror, label)
