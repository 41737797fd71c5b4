"""The one door for configuration: Hydra overrides in, strict frozen objects out.

Hydra composes conf/ (defaults list, five groups, override grammar); pydantic checks. Nothing behind this door sees
Hydra or OmegaConf, and nothing here imports torch, so that a typo is refused in well under a second.
"""

from __future__ import annotations

import copy
import difflib
import os
from collections.abc import Iterable, Mapping
from functools import lru_cache, reduce
from pathlib import Path
from typing import Any, Literal, cast

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, Field, SerializeAsAny, TypeAdapter, ValidationError
from yaml import YAMLError

from rlfamily import algorithms, tasks
from rlfamily.algorithms.settings import AlgorithmSettings, NoTraining, Start
from rlfamily.decoding import AnyDecoding
from rlfamily.errors import UserError, describe, nearest
from rlfamily.hardware import Hardware
from rlfamily.models import HubModel, ModelConfig, ScratchModel
from rlfamily.rollout.settings import ADAPTER_RANKS, Rollout
from rlfamily.settings import Strict
from rlfamily.stages import executors

CONF = Path(__file__).resolve().parent.parent / "conf"
GROUPS = ("task", "model", "algorithm", "hardware", "decoding")


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
    seed: int = Field(ge=0)
    results: str
    executor: str
    wandb: Literal["offline", "online", "off"]

    @property
    def trained(self) -> bool:
        """False when the start policy is used as it is."""
        return self.names["algorithm"] != algorithms.NONE

    def settings(self) -> dict[str, Any]:
        """The resolved configuration as plain data, for records."""
        return self.model_dump(mode="json")


def build(overrides: Iterable[str] = ()) -> RunConfig:
    """Compose one cell from ordinary Hydra overrides. Raises UserError: one line, key, place, nearest name."""
    return check(*_compose(list(overrides)))


def check(composed: DictConfig | dict[str, Any], choices: Mapping[str, str]) -> RunConfig:
    """Turn what Hydra composed into checked, frozen settings; `choices` maps each group to the name chosen in it.

    Raises UserError: one line, key, place, nearest name.
    """
    names = {group: choices[group] for group in GROUPS}
    content = composed if isinstance(composed, dict) else _plain(composed)
    content.pop("hydra", None)
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
    _drawn(names["algorithm"], config.algorithm)
    _placeable(config)
    if config.wandb == "online" and not os.environ.get("WANDB_API_KEY"):
        raise UserError("wandb=online needs WANDB_API_KEY in the environment: set it, or use wandb=offline")
    return config


def _drawn(name: str, settings: Start) -> None:
    """Refuse to shape or to select where a method draws no responses. Raises UserError."""
    if isinstance(settings, AlgorithmSettings) and algorithms.get(name).SOURCE != "rollouts":
        for key, used in (("shaping", settings.shaping), ("curriculum", settings.curriculum.kind != "in_order")):
            if used:
                raise UserError(f"algorithm.{key}: {name} draws no responses: use shaping=[] curriculum.kind=in_order")


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


def expand(overrides: Iterable[str]) -> list[list[str]]:
    """Expand sweeps (`a=x,y seed=range(3)`) into the list of override lists that Hydra's multirun would start.

    Raises UserError for what cannot be enumerated.
    """
    overrides = list(overrides)
    combinations: list[list[str]] = [[]]
    for override in _parse(overrides):
        values = _sweep(override) if override.is_sweep_override() else [override.input_line]
        combinations = [[*combination, value] for combination in combinations for value in values]
    return combinations


def algorithm_settings(name: str, **changes: Any) -> AlgorithmSettings:
    """The settings of conf/algorithm/<name>.yaml, with top-level `changes`, checked; for notebooks and tests."""
    schema = algorithms.get(name).Config
    content = _plain(OmegaConf.load(CONF / "algorithm" / f"{name}.yaml"))
    return _validate(schema, content | changes, "algorithm", name)


def choices(group: str) -> list[str]:
    """Names one can give to a group: its yaml files."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def _parse(overrides: list[str]) -> list[Any]:
    try:
        return [_parse_one(override) for override in overrides]
    except HydraException as error:
        raise UserError(f"command line: {_one_line(error)}") from error


@lru_cache(maxsize=4096)
def _parse_one(override: str) -> Any:
    """Rows and columns of a table repeat their overrides, and parsing one takes a millisecond."""
    return OverridesParser.create().parse_overrides([override])[0]


def _sweep(override: Any) -> list[str]:
    try:
        return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
    except (HydraException, AssertionError) as error:  # an interval; or glob(), which Hydra reads only when it starts
        raise UserError(f"command line: '{override.input_line}' does not list its values: write them out") from error


def _compose(overrides: list[str]) -> tuple[dict[str, Any], Mapping[str, str]]:
    """What Hydra composes, and the name chosen in each group.

    Hydra composes the defaults list once: it takes a tenth of a second, and a table has hundreds of cells. The files
    of other choices, which have no defaults list, take their groups' places, and values are set last, as Hydra does.
    """
    for override in (parsed := _parse(overrides)):
        _check_override(override)
    groups = {item.key_or_group: str(item.value()) for item in parsed if item.key_or_group in GROUPS}
    own = tuple(item.input_line for item in parsed if item.key_or_group.startswith("hydra"))
    try:
        composed, chosen = _compose_defaults(CONF, own)
        content = copy.deepcopy(composed | {group: _file(CONF, group, name) for group, name in groups.items()})
        for override in parsed:
            if override.key_or_group not in groups and override.input_line not in own:
                _set(content, override.key_or_group.split("."), override.value())
    except (HydraException, OmegaConfBaseException, YAMLError, KeyError, TypeError) as error:
        raise UserError(_unknown_key(overrides) or f"configuration: {_one_line(error)}") from error
    return content, {**chosen, **groups}


def _set(content: dict[str, Any], path: list[str], value: Any) -> None:
    """Replace the value at a path; a mapping is merged, but one that names its kind takes the place of what is there.

    Raises KeyError or TypeError when there is no such key, UserError for one inside a mapping.
    """
    *parents, last = path
    section = reduce(lambda inner, name: inner[name], parents, content)
    there = section[last]
    if not isinstance(there, dict) or not isinstance(value, dict) or "kind" in value:
        section[last] = value
        return
    for name, inner in value.items():
        if name not in there:
            raise UserError(f"command line: unknown key '{'.'.join([*path, str(name)])}'{nearest(name, there)}")
        _set(content, [*path, name], inner)


@lru_cache(maxsize=256)
def _file(folder: Path, group: str, name: str) -> dict[str, Any]:
    return _plain(OmegaConf.load(folder / group / f"{name}.yaml"))


@lru_cache(maxsize=16)
def _compose_defaults(folder: Path, overrides: tuple[str, ...]) -> tuple[dict[str, Any], Mapping[str, str]]:
    with initialize_config_dir(str(folder), version_base="1.3"):
        composed = compose("config", overrides=list(overrides), return_hydra_config=True)
    content = _plain(composed)
    content.pop("hydra")
    return content, dict(composed.hydra.runtime.choices)


def _check_override(override: Any) -> None:
    """Refuse what would slip past the schema or fail with a long message: `+`/`~` keys, unknown choices, `${...}`."""
    key, line = override.key_or_group, override.input_line
    if override.is_delete() or override.is_add() or override.is_force_add() or override.package is not None:
        raise UserError(f"command line: '{line}' adds, moves or deletes a key; "
                        f"every key exists already, so write {key}=value")
    value = line.partition("=")[2]
    if "${" in value:
        raise UserError(f"command line: '{line}' is an interpolation: write the value itself")
    if key in GROUPS and override.value() not in choices(key):
        raise UserError(f"{key}: no '{value}' in conf/{key}/{nearest(value, choices(key))}; "
                        f"there is {', '.join(choices(key))}")


def _unknown_key(overrides: list[str]) -> str:
    """Name the first override whose key does not exist, with the nearest key that does; "" when all exist."""
    parsed = _parse(overrides)
    grouped = [item.input_line for item in parsed if item.key_or_group in GROUPS]
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            known = list(_flatten(compose("config", overrides=grouped)))
    except (HydraException, OmegaConfBaseException, YAMLError):
        return ""  # the fault is in the files
    for override in parsed:
        key = override.key_or_group
        if key not in known and key not in GROUPS and not key.startswith("hydra."):
            place = f"conf/{key.split('.')[0]}/" if key.split(".")[0] in GROUPS else "conf/config.yaml"
            return f"command line: unknown key '{key}' (see {place}){_nearest_key(key, known)}"
    return ""


def _nearest_key(key: str, known: list[str]) -> str:
    """The key of the same group whose last word is most alike, siblings first; else the most similar key."""
    head, _, tail = key.rpartition(".")
    inside = [name for name in known if "." in key and name.startswith(key.split(".")[0] + ".")]
    tails = {name.rpartition(".")[2]: name for name in inside}
    tails |= {name.rpartition(".")[2]: name for name in inside if name.rpartition(".")[0] == head}
    close = difflib.get_close_matches(tail, tails, n=1, cutoff=0.6)
    return f" (did you mean '{tails[close[0]]}'?)" if close else nearest(key, known)


def _flatten(config: DictConfig, prefix: str = "") -> Iterable[str]:
    for key in map(str, config):
        name = f"{prefix}{key}"
        yield name
        node = config._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none():
            yield from _flatten(node, f"{name}.")


def _plain(config: Any) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(config))


def _kind(task: dict[str, Any], name: str) -> str:
    if not isinstance(task.get("kind"), str):
        raise UserError(f"conf/task/{name}.yaml: missing key 'kind': name a file of rlfamily/tasks")
    return str(task["kind"])


def _validate(schema: Any, content: Any, group: str, name: str) -> Any:
    try:
        return TypeAdapter(schema).validate_python(content)
    except ValidationError as error:
        raise UserError(f"{group}: {describe(error, schema)} (conf/{group}/{name}.yaml or command line)") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
