"""The stages of one configuration: what each reads, and which settings may change its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property

from rlfamily import algorithms, guides
from rlfamily.algorithms import rpo, sft
from rlfamily.algorithms.settings import AlgorithmSettings
from rlfamily.config import LEARNED_FROM, POLICY, RunConfig, algorithm_settings
from rlfamily.decoding import plain
from rlfamily.errors import UserError, nearest
from rlfamily.fields import written
from rlfamily.judges import CausalLmJudge
from rlfamily.models import Family, Finetuning, ScratchModel
from rlfamily.occupancy import occupied
from rlfamily.rewards import ContrastiveSource, HubSource, ModelSource
from rlfamily.rollout.settings import Drawing, Generation
from rlfamily.settings import Distribution, Limits, Strict
from rlfamily.stages.graph import Node
from rlfamily.stages.kinds import (
    accuracy,
    base,
    clip,
    data,
    generate,
    hub,
    judge,
    lengths,
    logprobs,
    outputs,
    pairs,
    preference_model,
    reference,
    reward_model,
    score,
    targets,
    theory,
    train,
)

Sources = dict[str, "Node | Mapping[str, Node]"]
"""Inputs by name, alike ones as a mapping."""


@cache
def _supervised() -> sft.Config:
    """What a base model and a warm start are trained with."""
    return sft.Config.model_validate(algorithm_settings("sft").model_dump())


@dataclass(frozen=True)
class Planner:
    """Builds the nodes of one configuration, each once. Equal configurations give equal keys, so they share stages."""

    config: RunConfig
    label: str
    table: str = ""

    @cached_property
    def data(self) -> Node:
        """The task's files."""
        return self.node("data", data.Config(task=self.config.task.data), {}, f"data {self.config.names['task']}")

    @cached_property
    def lengths(self) -> Node:
        """Whether the task's prompts leave room for responses; what trains or draws waits for it."""
        model, task = self.config.model, self.config.task
        config = lengths.Config.model_validate({name: getattr(task, name) for name in lengths.Config.model_fields})
        inputs: Sources = {"data": self.data}
        if not isinstance(model, ScratchModel):
            inputs["model"] = self.base
        return self.node("lengths", config, inputs,
                          f"lengths {self.config.names['task']} · {self.config.names['model']}")

    @cached_property
    def base(self) -> Node:
        """The policy before any training of ours: a hub model, or a stand-in pretrained on the task's corpus."""
        model, task, label = self.config.model, self.config.task, f"base {self.config.names['model']}"
        if not isinstance(model, ScratchModel):
            return self.hub(model.path, model.revision, label, model.date_string, model.family)
        recipe, corpus = model.pretrain, task.pretrain
        if corpus is None:
            raise UserError(f"model={self.config.names['model']}: task {self.config.names['task']} has no corpus to "
                            "train a model from scratch on (task.pretrain is null): choose a hub model")
        if corpus.gate.part not in written("score"):
            raise UserError(f"task.pretrain.gate.part: no score has a part '{corpus.gate.part}'"
                            f"{nearest(corpus.gate.part, sorted(written('score')))}")
        for name in ("max_tokens_rollout", "max_tokens_evaluation", "max_tokens_demonstration"):
            if (limit := getattr(task, name)) > model.max_positions:
                raise UserError(f"task.{name}={limit} is beyond model.max_positions={model.max_positions}: lower the "
                                "one or raise the other")
        settings = _supervised().model_copy(update={
            "prompts": corpus.lines, "batch_prompts": recipe.batch_prompts, "epochs": corpus.epochs,
            "optimizer": recipe.optimizer, "kl_ref_every": 0})
        # How it is finetuned or drawn from later cannot change the base model.
        sampled = self.generation().model_copy(update={
            "draws": 1, "greedy": True, "engine": "torch", "decoding": plain.Config(kind="plain")})
        gate = base.Gate(task=task.kind, part=corpus.gate.part, least=corpus.gate.least, generation=sampled)
        config = base.Config(model=model.model_copy(update={"finetune": "full", "lr_multiplier": 1.0}),
                             settings=settings, max_tokens=task.max_tokens_demonstration, gate=gate)
        return self.node("base", config, {"data": self.data}, label, self.lengths)

    @cached_property
    def warm_start(self) -> Node:
        """The policy that training starts from: the base model, or the base model after SFT at the same seed."""
        if self.config.algorithm.warm_start == "base":
            return self.base
        return self._train("sft", _supervised(), {"data": self.data, "policy": self.base},
                           f"SFT warm start · seed {self.config.seed}")

    @cached_property
    def train(self) -> Node:
        """The cell's own run."""
        name, settings = self.config.names["algorithm"], self.config.algorithm
        assert isinstance(settings, AlgorithmSettings), "nothing is trained"
        inputs: Sources = {"data": self.data, "policy": self.warm_start}
        source = algorithms.get(name).SOURCE
        if source == "pairs":
            inputs["pairs"] = self._pairs(settings.prompts, settings.sampling.distribution)
        if source == "logged":
            inputs["reference"] = self.reference
        if source == "rollouts":
            inputs["rewards"] = self.reward_sources
            if settings.reward == "reward_model":
                inputs["fitted"] = self._reward_model
        return self._train(name, settings, inputs, self.label)

    @cached_property
    def reference(self) -> Node:
        """The task's logged responses under the policy that training starts from: one for all methods and seeds."""
        config = reference.Config(finetuning=self.frozen(), max_tokens=self.config.task.max_tokens_demonstration)
        return self.node("reference", config, {"data": self.data, "policy": self.warm_start},
                          f"reference log-probs {self.config.names['model']}", self.lengths)

    def trained_by(self, name: str) -> Planner:
        """The same configuration from the same start, trained by a method with that method's own settings."""
        settings = algorithm_settings(name, warm_start=self.config.algorithm.warm_start)
        own = {"algorithm": settings, "names": self.config.names | {"algorithm": name}}
        return Planner(self.config.model_copy(update=own), f"{name} · seed {self.config.seed}", self.table)

    @property
    def policy(self) -> Node:
        """The policy that is scored: the cell's own, or, when nothing is trained, its start."""
        return self.train if self.config.trained else self.warm_start

    @cached_property
    def generate(self) -> Node:
        """Held-out responses of the cell's policy, or those that stand in a file."""
        if self.config.responses != POLICY:
            config = outputs.config_of(self.config.responses, self.config.task.eval_prompts)
            return self.node("outputs", config, {"data": self.data}, f"outputs {self.label}")
        return self._decoded("generate", self.generation(), f"responses {self.label}")

    def trace(self, prompts: int) -> Node:
        """How the first response to each of the first `prompts` prompts came about."""
        some = self.generation().model_copy(update={"prompts": prompts, "draws": 1})
        return self._decoded("trace", some, f"trace {self.label}")

    @cached_property
    def latency(self) -> Node:
        """How long responses take: of 30 prompts, as IRO Fig. 5 has it."""
        few = self.generation().model_copy(update={"prompts": min(30, self.config.task.eval_prompts), "draws": 1})
        return self._decoded("latency", few, f"latency {self.label}")

    def _decoded(self, kind: str, generation: Generation, label: str) -> Node:
        decoder = self.config.decoding
        config = generate.Config(generation=generation, finetuning=self.frozen(),
                                 guiding=guides.guiding_of(self, decoder))
        inputs: Sources = {"data": self.data, "policy": self.policy, **guides.inputs_of(self, decoder)}
        return self.node(kind, config, inputs, label, self.lengths)

    @cached_property
    def score(self) -> Node:
        """What those responses are worth."""
        task = self.config.task
        config = score.Config(task=task.kind, reward=task.reward.unsourced(),
                              metrics={name: metric.unsourced() for name, metric in task.metrics.items()})
        inputs: Sources = {"data": self.data, "responses": self.generate, "rewards": self.reward_sources,
                           "metrics": self._metric_sources}
        return self.node("score", config, inputs, f"score {self.label}")

    @cached_property
    def accuracy(self) -> Node:
        """How often the task's reward orders held-out pairs as their labels do: no policy plays a part."""
        task, reward = self.config.task, self.config.task.reward.guiding()
        if not task.subsets or not reward.models:
            raise UserError(f"task {self.config.names['task']} has no held-out pairs to measure a reward model by, or "
                            "its reward reads no model: choose another task")
        sources = {name: self.reward_sources[name] for name in reward.models}
        return self.node("accuracy", accuracy.Config(task=task.kind, reward=reward.unsourced()),
                         {"data": self.data, "rewards": sources}, f"accuracy {self.label}")

    @cached_property
    def logprobs(self) -> Node:
        """Log-probs of the demonstrations under the cell's policy."""
        config = logprobs.Config(finetuning=self.frozen(), max_tokens=self.config.task.max_tokens_demonstration)
        return self.node("logprobs", config, {"data": self.data, "policy": self.policy}, f"log-probs {self.label}")

    @cached_property
    def targets(self) -> Node:
        """What RPO with the cell's settings asks of the task's logged responses."""
        if not isinstance(settings := self.config.algorithm, rpo.Config):
            raise UserError(f"algorithm={self.config.names['algorithm']} has no targets to show: use algorithm=rpo")
        config = targets.Config.model_validate({name: getattr(settings, name) for name in targets.Config.model_fields})
        return self.node("targets", config, {"reference": self.reference}, f"targets {self.label}")

    def judge(self, opponent: Planner) -> Node:
        """The cell's responses against the opponent's."""
        if (settings := self.config.task.judge) is None:
            raise UserError(f"task {self.config.names['task']} has no judge (task.judge is null)")
        inputs: Sources = {"ours": self.score, "theirs": opponent.score, "data": self.data}
        if isinstance(settings, CausalLmJudge):
            inputs["judge"] = self.hub(settings.path, settings.revision, f"fetch judge {settings.path}")
        return self.node("judge", judge.Config(judge=settings), inputs, f"judge {self.label}")

    def theory(self, checks: list[str], seed: int) -> Node:
        """Exact computations on an enumerable world: no task, no model."""
        return self.node("theory", theory.Config(checks=checks, seed=seed), {}, "theory")

    def _pairs(self, prompts: int, distribution: Distribution) -> Node:
        config = pairs.Config(
            lesson=self.config.task.lesson(prompts, self.config.task.rollout, rewarded=True), distribution=distribution,
            finetuning=self.frozen(), engine=self.config.rollout.engine, seed=self.config.seed)
        inputs: Sources = {"data": self.data, "policy": self.warm_start, "rewards": self.reward_sources}
        return self.node("pairs", config, inputs, f"preference pairs · seed {self.config.seed}", self.lengths)

    @cached_property
    def reward_sources(self) -> dict[str, Node]:
        """The models that the task's own reward reads, by name."""
        sources = self.config.task.reward.models
        return {name: self.reward_source(source, f"{name} ({self.config.names['task']})")
                for name, source in sources.items()}

    @cached_property
    def _metric_sources(self) -> dict[str, Node]:
        """The models that the task's text metrics read, by metric and name."""
        return {f"{metric}.{name}": self.hub(source.path, source.revision, f"fetch {name} of {metric}")
                for metric, config in self.config.task.metrics.items() for name, source in config.models.items()}

    def reward_source(self, source: ModelSource, label: str) -> Node:
        """A model that scores responses: published, or trained here."""
        if isinstance(source, HubSource):
            return self.hub(source.path, source.revision, f"fetch {label}")
        if isinstance(source, ContrastiveSource):
            return self.node("clip", clip.Config(source=source), {"data": self.data}, f"CLIP {label}")
        config = preference_model.Config(source=source, max_tokens=self.config.task.max_tokens_demonstration)
        return self.node("preference_model", config, {"data": self.data}, f"reward model {label}")

    @cached_property
    def _reward_model(self) -> Node:
        if (settings := self.config.task.reward_model) is None:
            raise UserError(f"algorithm.reward=reward_model: task {self.config.names['task']} does not say how to fit "
                            "one (task.reward_model is null): use algorithm.reward=task")
        config = reward_model.Config(
            settings=settings, finetuning=self._finetuning.model_copy(update={"finetune": "full"}),  # trained whole
            max_tokens=self.config.task.max_tokens_demonstration, seed=self.config.seed)
        inputs: Sources = {"data": self.data, "policy": self.warm_start,
                           "pairs": self._pairs(settings.prompts, settings.distribution)}
        return self.node("reward_model", config, inputs, f"reward model · seed {self.config.seed}")

    def _train(self, name: str, settings: AlgorithmSettings, inputs: Sources, label: str) -> Node:
        task, source = self.config.task, algorithms.get(name).SOURCE
        whole = Limits(max_tokens=task.max_tokens_demonstration, max_new_tokens=None, min_new_tokens=0)
        limits = whole if source in LEARNED_FROM else task.rollout
        rollout = Drawing(engine=self.config.rollout.engine, importance_cap=self.config.rollout.importance_cap)
        config = train.Config(
            algorithm=name, settings=settings, finetuning=self._finetuning, seed=self.config.seed,
            lesson=task.lesson(settings.prompts, limits, rewarded=source == "rollouts"),
            rollout=rollout if source == "rollouts" else None)
        return self.node("train", config, inputs, label, self.lengths)

    def generation(self) -> Generation:
        """How held-out responses are made."""
        task = self.config.task
        return Generation(
            prompts=task.eval_prompts, draws=task.eval_draws, greedy=task.eval_greedy, limits=task.evaluation,
            distribution=task.distribution, decoding=self.config.decoding.unsourced(),
            engine=self.config.rollout.engine)

    @cached_property
    def _finetuning(self) -> Finetuning:
        return Finetuning.model_validate({name: getattr(self.config.model, name) for name in Finetuning.model_fields})

    def frozen(self) -> Finetuning:
        """A policy that is only read: its adapters are merged and its learning rate plays no part."""
        return self._finetuning.model_copy(update={"finetune": "full", "lr_multiplier": 1.0})

    def hub(
        self, path: str, revision: str, label: str, date_string: str | None = None, family: Family | None = None
    ) -> Node:
        """A published model, or a local folder."""
        config = hub.Config(path=path, revision=revision, date_string=date_string, family=family)
        return self.node("hub", config, {}, label)

    def node(self, kind: str, config: Strict, inputs: Sources, label: str, *after: Node) -> Node:
        """A stage of this configuration, on its hardware."""
        return Node(kind, config, inputs, occupied(self.config, self.table, kind, config), label, after)
