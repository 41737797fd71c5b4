"""The one door for configuration: Hydra overrides in, strict frozen objects out.

Hydra composes conf/ (defaults list, five groups, override grammar); pydantic checks. Nothing behind this door sees
Hydra or OmegaConf, and nothing here imports torch, so that a typo is refused in well under a second.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import ConfigDict, Field, SerializeAsAny, TypeAdapter, ValidationError

from rlfamily import algorithms, composing, decoding, tasks
from rlfamily.algorithms.settings import AlgorithmSettings, NoTraining, Start
from rlfamily.composing import GROUPS, compose, plain, require_sane
from rlfamily.decoding import AnyDecoding
from rlfamily.decoding.guided import Guided
from rlfamily.errors import UserError, describe, nearest
from rlfamily.hardware import Hardware
from rlfamily.models import HubModel, ModelConfig, ScratchModel
from rlfamily.rollout.settings import ADAPTER_RANKS, Rollout
from rlfamily.settings import Location, Strict
from rlfamily.stages import executors

POLICY, REFERENCES = "policy", "references"
FILES = (".json", ".jsonl", ".csv")

LEARNED_FROM = {"demonstrations": "imitates demonstrations", "logged": "learns from logged responses"}
"""What of a task's files each source reads."""


class RunConfig(Strict):
    """One cell, resolved: what `names` chose in each group, and the checked settings themselves."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True)

    names: dict[str, str]
    task: SerializeAsAny[tasks.TaskConfig]
    model: ScratchModel | HubModel
    algorithm: SerializeAsAny[Start]
    hardware: Hardware
    decoding: AnyDecoding
    rollout: Rollout
    responses: Location
    seed: int = Field(ge=0)
    results: Location
    executor: str
    wandb: Literal["offline", "online", "off"]

    @property
    def trained(self) -> bool:
        """False when the start policy is used as it is."""
        return self.names["algorithm"] != algorithms.NONE

    def settings(self) -> dict[str, Any]:
        """The resolved configuration as plain data, for records; with what its method takes, under `method`."""
        settings = self.model_dump(mode="json")
        if self.trained and isinstance(self.algorithm, AlgorithmSettings):
            settings["method"] = algorithms.properties(algorithms.get(self.names["algorithm"]), self.algorithm)
        return settings


def build(overrides: Iterable[str] = ()) -> RunConfig:
    """Compose one cell from ordinary Hydra overrides. Raises UserError: one line, key, place, nearest name."""
    return check(*compose(list(overrides)))


def check(composed: DictConfig | dict[str, Any], choices: Mapping[str, str]) -> RunConfig:
    """Turn what Hydra composed into checked, frozen settings; `choices` maps each group to the name chosen in it.

    Raises UserError: one line, key, place, nearest name.
    """
    names = {group: choices[group] for group in GROUPS}
    content = composed if isinstance(composed, dict) else plain(composed)
    content.pop("hydra", None)
    require_sane(content)
    method = NoTraining if names["algorithm"] == algorithms.NONE else algorithms.get(names["algorithm"]).Config
    task = tasks.get(_kind(content["task"], names["task"]))
    if unknown := sorted(set(content) - set(RunConfig.model_fields)):
        raise UserError(f"conf/config.yaml: unknown key '{unknown[0]}'{nearest(unknown[0], RunConfig.model_fields)}")
    parts = {
        "task": _validate(task.Config, content["task"], "task", names["task"]),
        "model": _validate(ModelConfig, content["model"], "model", names["model"]),
        "algorithm": _validate(method, content["algorithm"], "algorithm", names["algorithm"]),
        "hardware": _validate(Hardware, content["hardware"], "hardware", names["hardware"]),
        "decoding": _validate(AnyDecoding, content["decoding"], "decoding", names["decoding"]),
    }
    rest = {key: value for key, value in content.items() if key not in GROUPS}
    try:
        config = RunConfig(names=names, **parts, **rest)
    except ValidationError as error:
        raise UserError(f"conf/config.yaml or command line: {describe(error, RunConfig)}") from error
    executors.require(config.executor)
    _present(config.model)
    _readable_responses(config)
    _drawn(names["algorithm"], config.algorithm)
    _learnable(config)
    _readable(config)
    _decodable(config)
    _placeable(config)
    if config.wandb == "online" and not os.environ.get("WANDB_API_KEY"):
        raise UserError("wandb=online needs WANDB_API_KEY in the environment: set it, or use wandb=offline")
    return config


def _present(model: ScratchModel | HubModel) -> None:
    """Refuse a local folder that is not there; a hub id is looked up when it is needed. Raises UserError."""
    if isinstance(model, HubModel) and model.path.startswith(("/", ".", "~")) and not Path(model.path).is_dir():
        raise UserError(f"model.path: there is no folder {model.path}: give a folder that exists, or a hub id")


def _readable_responses(config: RunConfig) -> None:
    """Refuse a file of responses that is not there, and to train what then says nothing. Raises UserError."""
    said = config.responses
    if said == POLICY:
        return
    if config.trained:
        raise UserError(f"responses={said} are no policy's: use algorithm=none, or responses={POLICY}")
    if said != REFERENCES and not said.endswith(FILES):
        raise UserError(f"responses: '{said}' is none of {POLICY}, {REFERENCES}, or a file that ends in "
                        f"{', '.join(FILES)}{nearest(said, [POLICY, REFERENCES])}")
    if said != REFERENCES and not Path(said).is_file():
        raise UserError(f"responses: there is no file '{said}': give one as alpaca_eval's model_outputs.json is")


def _drawn(name: str, settings: Start) -> None:
    """Refuse to shape or to select where a method draws no responses. Raises UserError."""
    if not isinstance(settings, AlgorithmSettings):
        return
    source = algorithms.get(name).SOURCE
    if settings.reward in ("logged", "shuffled") and source != "logged":
        raise UserError(f"algorithm.reward={settings.reward}: {name} does not learn from logged responses: use task, "
                        "reward_model or random")
    if source != "rollouts":
        for key, used in (("shaping", settings.shaping), ("curriculum", settings.curriculum.kind != "in_order")):
            if used:
                raise UserError(f"algorithm.{key}: {name} draws no responses: use shaping=[] curriculum.kind=in_order")


def _learnable(config: RunConfig) -> None:
    """Refuse to learn from demonstrations, a log or rewards that the task does not have. Raises UserError."""
    name, task, has = config.names["algorithm"], config.names["task"], tasks.get(config.task.kind).HAS
    source = algorithms.get(name).SOURCE if config.trained else ""
    if source in LEARNED_FROM and source not in has:
        raise UserError(f"algorithm={name} {LEARNED_FROM[source]}, and task={task} has none: use a method that learns "
                        "from responses of its own, such as algorithm=rloo algorithm.warm_start=base")
    if source in ("rollouts", "pairs") and not config.task.reward.teaches:
        raise UserError(f"algorithm={name} learns from the rewards of its own responses, and task={task} gives none "
                        f"(task.reward.kind={config.task.reward.kind}): use a method that learns from what is logged, "
                        "such as algorithm=rpo")
    if config.algorithm.warm_start == "sft" and "demonstrations" not in has:
        raise UserError(f"algorithm.warm_start=sft imitates demonstrations, and task={task} has none: use "
                        "algorithm.warm_start=base")


def _readable(config: RunConfig) -> None:
    """Refuse a reward model fitted on a policy that has no state of a whole text. Raises UserError."""
    if getattr(config.algorithm, "reward", None) == "reward_model" and config.model.family == "encoder_decoder":
        raise UserError(f"algorithm.reward=reward_model starts from the policy's weights, and those of model="
                        f"{config.names['model']} are of an encoder and a decoder: use algorithm.reward=task")


def _decodable(config: RunConfig) -> None:
    """Refuse a decoder that asks what task, model or engine cannot tell. Raises UserError."""
    chosen, names = config.decoding, config.names
    asked, what = decoding.get(chosen.kind).asks(chosen), f"decoding={chosen.kind}"
    if "answers" in asked and not hasattr(tasks.get(config.task.kind), "answer"):
        raise UserError(f"{what} counts equal answers, and responses of task={names['task']} have none that could be "
                        "counted: use another decoder")
    if "rewards" in asked and not config.task.reward.teaches:
        raise UserError(f"{what} chooses by the task's reward, and task={names['task']} gives none "
                        f"(task.reward.kind={config.task.reward.kind}): use another decoder")
    if config.model.family == "encoder_decoder":
        if isinstance(chosen, Guided) and chosen.values is not None and chosen.values.start.kind == "policy":
            raise UserError(f"decoding.values.start.kind=policy: that of model={names['model']} has an encoder, and a "
                            "value function reads one text: start from a reward model or another")
        if chosen.engages == "pauses":
            raise UserError(f"{what} lets rows wait for each other, which no model with an encoder can, and model="
                            f"{names['model']} has one: use another decoder")
    if config.rollout.engine == "vllm" and chosen.engages == "pauses":
        raise UserError(f"{what} ends segments by how unsure the policy is, which vLLM does not say: use "
                        "rollout.engine=torch")
    if config.rollout.engine == "vllm" and chosen.engages == "options" and config.hardware.vllm.mode == "server":
        raise UserError(f"{what} chooses among likely tokens, which a server of vLLM is not asked for: use "
                        "hardware.vllm.mode=colocated or rollout.engine=torch")


def _placeable(config: RunConfig) -> None:
    """Refuse what no machine can do. Raises UserError."""
    hardware, vllm = config.hardware, config.hardware.vllm
    drawing = config.trained and algorithms.get(config.names["algorithm"]).SOURCE == "rollouts"
    if hardware.sharding == "fsdp" and hardware.processes == 1:
        raise UserError("hardware.sharding=fsdp shards over several processes: set hardware.processes, or use "
                        "hardware.sharding=none")
    if hardware.sharding == "fsdp" and drawing and config.rollout.engine == "torch":
        raise UserError("rollout.engine=torch cannot draw from weights that hardware.sharding=fsdp has split: set "
                        "rollout.engine=vllm or hardware.sharding=none")
    if config.rollout.engine == "torch":
        return
    if config.model.family == "encoder_decoder":
        raise UserError(f"rollout.engine=vllm serves no model with an encoder, and model={config.names['model']} has "
                        "one: use rollout.engine=torch")
    _repeatable(config)
    if vllm.server_url and vllm.mode == "colocated":
        raise UserError("hardware.vllm.server_url names a server: set hardware.vllm.mode=server, or server_url=null")
    if vllm.sleep and hardware.kind == "cpu":
        raise UserError("hardware.vllm.sleep gives a GPU's memory back: use hardware.vllm.sleep=false on CPUs")
    if vllm.mode == "colocated" and drawing and hardware.processes % vllm.tensor_parallel:
        raise UserError(f"hardware.vllm.tensor_parallel={vllm.tensor_parallel} does not divide hardware.processes="
                        f"{hardware.processes}: colocated engines are shared by training processes")
    if config.model.finetune == "lora" and config.model.lora.rank > ADAPTER_RANKS[-1]:
        raise UserError(f"model.lora.rank={config.model.lora.rank} is above {ADAPTER_RANKS[-1]}, the most vLLM takes: "
                        "lower it, or use rollout.engine=torch")


def _repeatable(config: RunConfig) -> None:
    """Refuse to forbid repeats of vLLM, which has a penalty for them and nothing more. Raises UserError."""
    drawn = {"task.eval_no_repeat_ngram": config.task.distribution}
    if isinstance(config.algorithm, AlgorithmSettings):
        drawn["algorithm.sampling.no_repeat_ngram"] = config.algorithm.sampling
    if config.task.reward_model:
        drawn["task.reward_model.no_repeat_ngram"] = config.task.reward_model
    for key, distribution in drawn.items():
        if distribution.no_repeat_ngram:
            raise UserError(f"{key}={distribution.no_repeat_ngram}: vLLM cannot forbid repeats: use "
                            f"rollout.engine=torch, or {key}=0")


def algorithm_settings(name: str, **changes: Any) -> AlgorithmSettings:
    """The settings of conf/algorithm/<name>.yaml, with top-level `changes`, checked; for notebooks and tests."""
    schema = algorithms.get(name).Config
    content = plain(OmegaConf.load(composing.CONF / "algorithm" / f"{name}.yaml"))
    return _validate(schema, content | changes, "algorithm", name)


def _kind(task: dict[str, Any], name: str) -> str:
    if not isinstance(task.get("kind"), str):
        raise UserError(f"conf/task/{name}.yaml: missing key 'kind': name a file of rlfamily/tasks")
    return str(task["kind"])


def _validate(schema: Any, content: Any, group: str, name: str) -> Any:
    try:
        return TypeAdapter(schema).validate_python(content)
    except ValidationError as error:
        raise UserError(f"{group}: {describe(error, schema)} (conf/{group}/{name}.yaml or command line)") from error
