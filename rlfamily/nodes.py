"""The stages of one configuration: what each reads, and which settings may change its numbers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from rlfamily import algorithms
from rlfamily.algorithms.settings import AlgorithmSettings
from rlfamily.config import RunConfig, algorithm_settings
from rlfamily.errors import UserError
from rlfamily.judges import CausalLmJudge
from rlfamily.models import Finetuning, ScratchModel
from rlfamily.rewards import HubSource, ModelSource, TrainedSource
from rlfamily.rollout.settings import Drawing
from rlfamily.stages.graph import Node
from rlfamily.stages.placing import REWARD_INPUT

_ROLLOUT = ("kind", "max_tokens_rollout", "min_new_tokens")
_TRAINING_LIMITS = (*_ROLLOUT, "max_tokens_demonstration", "prompt_fraction", "reuse_prompts")
_GATE = ("kind", "max_tokens_evaluation", "min_new_tokens", "eval_prompts", "eval_temperature", "eval_top_k",
         "eval_top_p")
_EVALUATION = (*_GATE, "eval_draws")


@cache
def _warm_start_settings() -> AlgorithmSettings:
    return algorithm_settings("sft")


@dataclass(frozen=True)
class Planner:
    """Builds the nodes of one configuration, each once. Equal configurations give equal keys, so they share stages."""

    config: RunConfig
    label: str

    @cached_property
    def data(self) -> Node:
        """The task's files."""
        return self._node("data", self.config.task.data_settings(), {}, f"data {self.config.names['task']}")

    @cached_property
    def base(self) -> Node:
        """The policy before any training of ours: a hub model, or a stand-in pretrained on the task's corpus."""
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
                          {"data": self.data}, label)

    @cached_property
    def warm_start(self) -> Node:
        """The policy that training starts from: the base model, or the base model after SFT at the same seed."""
        if self.config.algorithm.warm_start == "base":
            return self.base
        return self._train("sft", _warm_start_settings(), {"data": self.data, "policy": self.base},
                           f"SFT warm start · seed {self.config.seed}")

    @cached_property
    def train(self) -> Node:
        """The cell's own run."""
        name, settings = self.config.names["algorithm"], self.config.algorithm
        assert isinstance(settings, AlgorithmSettings), "nothing is trained"
        inputs = {"data": self.data, "policy": self.warm_start}
        source = algorithms.get(name).SOURCE
        if source == "pairs":
            inputs["pairs"] = self._pairs(settings.prompts, settings.sampling.temperature)
        if source == "rollouts":
            inputs |= self._reward_models
            if settings.reward == "reward_model":
                inputs["reward"] = self._reward_model
        return self._train(name, settings, inputs, self.label)

    @property
    def policy(self) -> Node:
        """The policy that is scored: the cell's own, or, when nothing is trained, its start."""
        return self.train if self.config.trained else self.warm_start

    @cached_property
    def score(self) -> Node:
        """Held-out scores of the cell's policy."""
        config = {"task": self._task(*_EVALUATION, reward=True), "finetuning": self._frozen(),
                  "engine": self.config.rollout.engine}
        inputs = {"data": self.data, "policy": self.policy, **self._reward_models}
        return self._node("score", config, inputs, f"score {self.label}")

    @cached_property
    def logprobs(self) -> Node:
        """Log-probs of the demonstrations under the cell's policy."""
        config = {"task": self._task("kind", "max_tokens_demonstration"), "finetuning": self._frozen()}
        return self._node("logprobs", config, {"data": self.data, "policy": self.policy}, f"log-probs {self.label}")

    def judge(self, opponent: Planner) -> Node:
        """The cell's greedy responses against the opponent's, judged in both orders."""
        judge = self.config.task.judge
        if judge is None:
            raise UserError(f"task {self.config.names['task']} has no judge (task.judge is null)")
        inputs = {"ours": self.score, "theirs": opponent.score}
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
        inputs = {"data": self.data, "policy": self.warm_start, **self._reward_models}
        return self._node("pairs", config, inputs, f"preference pairs · seed {self.config.seed}")

    @cached_property
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
            return self._node("preference_model", config, {"data": self.data}, f"reward model {label}")
        return self._node("clip", config, {"data": self.data}, f"CLIP {label}")

    @cached_property
    def _reward_model(self) -> Node:
        settings = self.config.task.reward_model
        if settings is None:
            raise UserError(f"algorithm.reward=reward_model: task {self.config.names['task']} does not say how to fit "
                            "one (task.reward_model is null): use algorithm.reward=task")
        # A reward model is trained whole.
        config = {"settings": settings.model_dump(mode="json"), "finetuning": self._finetuning() | {"finetune": "full"},
                  "task": self._task("max_tokens_demonstration"), "seed": self.config.seed}
        inputs = {"data": self.data, "policy": self.warm_start,
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
        return chosen | {"reward": self.config.task.reward.unsourced().model_dump(mode="json")} if reward else chosen

    def _finetuning(self) -> dict[str, Any]:
        return Finetuning.model_validate({name: getattr(self.config.model, name) for name in Finetuning.model_fields}
                                         ).model_dump(mode="json")

    def _frozen(self) -> dict[str, Any]:
        """A policy that is only read: its adapters are merged and its learning rate plays no part."""
        return self._finetuning() | {"finetune": "full", "lr_multiplier": 1.0}

    def _node(self, kind: str, config: dict[str, Any], inputs: dict[str, Node], label: str) -> Node:
        return Node(kind, config, inputs, self._hardware(kind, config), label)

    @cached_property
    def _machine(self) -> dict[str, Any]:
        mirror = {"wandb": self.config.wandb, "wandb_folder": str(Path(self.config.results).resolve())}
        return self.config.hardware.model_dump(mode="json") | mirror

    def _hardware(self, kind: str, config: dict[str, Any]) -> dict[str, Any]:
        """What a stage occupies: only training runs as several processes, and a policy's server has its own slots."""
        hardware, placed = dict(self._machine), self.config.hardware.vllm
        vllm = (config.get("rollout") or config).get("engine") == "vllm"
        serves = vllm and placed.mode == "server" and placed.server_url is None
        if kind != "train":
            hardware["processes"] = placed.shared if vllm else 1
        return hardware | {"server_slots": placed.tensor_parallel * placed.data_parallel if serves else 0}
