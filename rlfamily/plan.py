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
from rlfamily.experiment import Experiment, Policy
from rlfamily.judges import CausalLmJudge
from rlfamily.models import Finetuning, ScratchModel
from rlfamily.rewards import HubSource, ModelSource, TrainedSource
from rlfamily.rollout.settings import Drawing
from rlfamily.stages.graph import Node
from rlfamily.stages.placing import REWARD_INPUT

ROLES = ("train", "score", "logprobs")
_ROLLOUT = ("kind", "max_tokens_rollout", "min_new_tokens")
_TRAINING_LIMITS = (*_ROLLOUT, "max_tokens_demonstration", "prompt_fraction", "reuse_prompts")
_GATE = ("kind", "max_tokens_evaluation", "min_new_tokens", "eval_prompts", "eval_temperature", "eval_top_k",
         "eval_top_p")
_EVALUATION = (*_GATE, "eval_draws")


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

    `extra` overrides come last and hold for every row. Raises UserError for an unknown scale or a refused
    configuration.
    """
    if scale not in experiment.scales:
        raise UserError(f"scale: no '{scale}' in this experiment{nearest(scale, experiment.scales)}; "
                        f"it has {', '.join(experiment.scales)}")
    table = _Table(experiment, scale, list(extra))
    chosen = list(experiment.rows if rows is None else rows)
    return [cell for model in experiment.backbones for row in experiment.rows if row in chosen
            for column in experiment.columns
            for cell in table.cells(model, row, column, seeds or experiment.scales[scale].seeds)]


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
        opponent = self.experiment.opponent(row)
        against = self._resolved(model, row, column, opponent) if opponent else None
        made = []
        for seed in seeds:
            seeded = config.model_copy(update={"seed": seed})
            known = (*overrides, "against", *(against[0] if against else ()), self.experiment.rows[row].untrained, seed)
            if known not in self.planned:
                self.planned[known] = self._stages(
                    self._planner(seeded, self.experiment.rows[row], self._label(model, row, column, seed)),
                    self._planner(against[1].model_copy(update={"seed": seed}), opponent,
                                  self._label(model, self._opponent_name(row), column, seed))
                    if against and opponent else None)
            made.append(Cell(model, row, column, seed, [*overrides, f"seed={seed}"], seeded, self.planned[known]))
        return made

    def _stages(self, planner: _Planner, opponent: _Planner | None) -> dict[str, Node]:
        theory = self.experiment.theory
        if theory:
            return {"theory": planner.theory(theory.checks, theory.seed)}
        nodes = _nodes(planner, self.experiment.stages)
        return nodes | {"judge": planner.judge(opponent)} if opponent and "judge" in self.experiment.stages else nodes

    def _planner(self, config: RunConfig, policy: Policy, label: str) -> _Planner:
        return _Planner(config, label, not policy.untrained)

    def _opponent_name(self, row: str) -> str:
        against = self.experiment.rows[row].against
        return against if isinstance(against, str) else f"{row} (opponent)"

    def _label(self, model: str, row: str, column: str, seed: int) -> str:
        """What distinguishes a stage; columns that share their runs are not named."""
        runs = {str(spec.overrides) for spec in self.experiment.columns.values()}
        parts = [row, model if len(self.experiment.backbones) > 1 else "", column if len(runs) > 1 else "",
                 f"seed {seed}"]
        return " · ".join(part for part in parts if part)

    def _resolved(self, model: str, row: str, column: str, policy: Policy) -> tuple[list[str], RunConfig]:
        overrides = [*self.experiment.overrides(self.scale, model, column, policy), *self.extra]
        if any(override.startswith("seed=") for override in overrides):
            raise UserError(f"row '{row}': a table has its own seeds: write seeds=0,1 instead of seed=0")
        if tuple(overrides) not in self.composed:
            if len(expand(overrides)) > 1:
                raise UserError(f"row '{row}': sweeps belong on the train command line, a cell has one value per key")
            self.composed[tuple(overrides)] = _located(row, column, overrides)
        return overrides, self.composed[tuple(overrides)]


def stages(config: RunConfig, roles: Iterable[str], label: str = "") -> dict[str, Node]:
    """The nodes of one cell by role; `roles` is a subset of train, score, logprobs, and train is always built."""
    return _nodes(_Planner(config, label or config.names["algorithm"]), roles)


def _nodes(planner: _Planner, roles: Iterable[str]) -> dict[str, Node]:
    """The nodes of a policy; one that is not trained has no run, a judged one has scores."""
    makers: dict[str, Callable[[], Node]] = {"score": planner.score, "logprobs": planner.logprobs}
    wanted = set(roles)
    if not wanted:
        return {}
    if "judge" in wanted:
        wanted.add("score")
    train = {"train": planner.train()} if planner.trained else {}
    return train | {role: makers[role]() for role in ROLES[1:] if role in wanted}


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
    trained: bool = True

    def data(self) -> Node:
        return self._node("data", self.config.task.data_settings(), {}, f"data {self.config.names['task']}")

    def base(self) -> Node:
        """The untrained policy: a hub model, or a stand-in pretrained on the task's corpus."""
        model, label = self.config.model, f"base {self.config.names['model']}"
        if not isinstance(model, ScratchModel):
            return self._node("hub", {"path": model.path, "revision": model.revision}, {}, label)
        recipe, corpus = model.pretrain, self.config.task.pretrain
        if corpus is None:
            raise UserError(f"model={self.config.names['model']}: task {self.config.names['task']} has no corpus to "
                            "train a model from scratch on (task.pretrain is null): choose a hub model")
        settings = _warm_start_settings().model_copy(update={
            "prompts": corpus.lines, "batch_prompts": recipe.batch_prompts, "epochs": corpus.epochs,
            "optimizer": recipe.optimizer, "kl_ref_every": 0})
        # How it is finetuned later cannot change the base model.
        shape = model.model_dump(mode="json") | {"finetune": "full", "lr_multiplier": 1.0}
        gate = {"pretrain": {"gate": corpus.gate.model_dump(mode="json")}}
        task = self._task("max_tokens_demonstration", *_GATE) | gate
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
        if source == "rollouts":
            inputs |= self._reward_models()
            if settings.reward == "reward_model":
                inputs["reward"] = self._reward_model()
        return self._train(name, settings, inputs, self.label)

    def policy(self) -> Node:
        """The policy that is scored: the cell's own, or the one training would start from."""
        return self.train() if self.trained else self.warm_start()

    def score(self) -> Node:
        """Held-out scores of the cell's policy."""
        config = {"task": self._task(*_EVALUATION, reward=True), "finetuning": self._frozen(),
                  "engine": self.config.rollout.engine}
        inputs = {"data": self.data(), "policy": self.policy(), **self._reward_models()}
        return self._node("score", config, inputs, f"score {self.label}")

    def logprobs(self) -> Node:
        """Log-probs of the demonstrations under the cell's policy."""
        config = {"task": self._task("kind", "max_tokens_demonstration"), "finetuning": self._frozen()}
        return self._node("logprobs", config, {"data": self.data(), "policy": self.policy()}, f"log-probs {self.label}")

    def judge(self, opponent: _Planner) -> Node:
        """The cell's greedy responses against the opponent's, judged in both orders."""
        judge = self.config.task.judge
        if judge is None:
            raise UserError(f"task {self.config.names['task']} has no judge (task.judge is null)")
        inputs = {"ours": self.score(), "theirs": opponent.score()}
        if isinstance(judge, CausalLmJudge):
            hub = {"path": judge.path, "revision": judge.revision}
            inputs["judge"] = self._node("hub", hub, {}, f"fetch judge {judge.path}")
        return self._node("judge", {"judge": judge.model_dump(mode="json"), "task": self._task("kind")}, inputs,
                          f"judge {self.label}")

    def theory(self, checks: list[str], seed: int) -> Node:
        """Exact computations on an enumerable world: no task, no model."""
        return self._node("theory", {"checks": checks, "seed": seed}, {}, "theory")

    def _pairs(self, prompts: int, temperature: float) -> Node:
        task = self._task(*_ROLLOUT, "prompt_fraction", "reuse_prompts", reward=True)
        config = {"prompts": prompts, "temperature": temperature, "finetuning": self._frozen(), "task": task,
                  "engine": self.config.rollout.engine, "seed": self.config.seed}
        inputs = {"data": self.data(), "policy": self.warm_start(), **self._reward_models()}
        return self._node("pairs", config, inputs, f"preference pairs · seed {self.config.seed}")

    def _reward_models(self) -> dict[str, Node]:
        """The models that the task's own reward reads, as inputs."""
        sources = self.config.task.reward.models
        return {f"{REWARD_INPUT}{name}": self._reward_source(name, source) for name, source in sources.items()}

    def _reward_source(self, name: str, source: ModelSource) -> Node:
        config = source.model_dump(mode="json", exclude={"kind"})
        label = f"{name} ({self.config.names['task']})"
        if isinstance(source, HubSource):
            return self._node("hub", config, {}, f"fetch {label}")
        if isinstance(source, TrainedSource):
            config |= {"task": self._task("max_tokens_demonstration")}
            return self._node("preference_model", config, {"data": self.data()}, f"reward model {label}")
        return self._node("clip", config, {"data": self.data()}, f"CLIP {label}")

    def _reward_model(self) -> Node:
        settings = self.config.task.reward_model
        if settings is None:
            raise UserError(f"algorithm.reward=reward_model: task {self.config.names['task']} does not say how to fit "
                            "one (task.reward_model is null): use algorithm.reward=task")
        # A reward model is trained whole.
        config = {"settings": settings.model_dump(mode="json"), "finetuning": self._finetuning() | {"finetune": "full"},
                  "task": self._task("max_tokens_demonstration"), "seed": self.config.seed}
        inputs = {"data": self.data(), "policy": self.warm_start(),
                  "pairs": self._pairs(settings.prompts, settings.temperature)}
        return self._node("reward_model", config, inputs, f"reward model · seed {self.config.seed}")

    def _train(self, name: str, settings: AlgorithmSettings, inputs: dict[str, Node], label: str) -> Node:
        rollouts = algorithms.get(name).SOURCE == "rollouts"
        config = {"algorithm": name, "settings": settings.model_dump(mode="json"), "finetuning": self._finetuning(),
                  "task": self._task(*_TRAINING_LIMITS, reward=rollouts), "seed": self.config.seed,
                  "rollout": self.config.rollout.model_dump(include=set(Drawing.model_fields)) if rollouts else None}
        return self._node("train", config, inputs, label)

    def _task(self, *keys: str, reward: bool = False) -> dict[str, Any]:
        """The task's settings that a stage reads: only these may enter its key."""
        chosen = {key: getattr(self.config.task, key) for key in keys}
        return chosen | {"reward": self.config.task.reward.settings()} if reward else chosen

    def _finetuning(self) -> dict[str, Any]:
        return Finetuning.model_validate({name: getattr(self.config.model, name) for name in Finetuning.model_fields}
                                         ).model_dump(mode="json")

    def _frozen(self) -> dict[str, Any]:
        """A policy that is only read: its adapters are merged and its learning rate plays no part."""
        return self._finetuning() | {"finetune": "full", "lr_multiplier": 1.0}

    def _node(self, kind: str, config: dict[str, Any], inputs: dict[str, Node], label: str) -> Node:
        mirror = {"wandb": self.config.wandb, "wandb_folder": str(Path(self.config.results).resolve())}
        return Node(kind, config, inputs, self._hardware(kind, config) | mirror, label)

    def _hardware(self, kind: str, config: dict[str, Any]) -> dict[str, Any]:
        """What a stage occupies: only training runs as several processes, and a policy's server has its own slots."""
        hardware, placed = self.config.hardware.model_dump(mode="json"), self.config.hardware.vllm
        vllm = (config.get("rollout") or config).get("engine") == "vllm"
        serves = vllm and placed.mode == "server" and placed.server_url is None
        if kind != "train":
            hardware["processes"] = placed.shared if vllm else 1
        return hardware | {"server_slots": placed.tensor_parallel * placed.data_parallel if serves else 0}
