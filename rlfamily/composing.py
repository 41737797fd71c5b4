"""Hydra's side of the one door: override lines in, plain nested data out, with every refusal as one line.

Hydra knows the defaults list, the groups and the grammar of overrides; nothing here knows what a key means.
"""

from __future__ import annotations

import copy
import difflib
import math
from collections.abc import Iterable, Mapping
from functools import lru_cache, reduce
from pathlib import Path
from typing import Any, cast

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from rlfamily.errors import UserError, nearest

CONF = Path(__file__).resolve().parent.parent / "conf"
GROUPS = ("task", "model", "algorithm", "hardware", "decoding")
_LARGEST = 2**63 - 1


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


def _top_keys() -> list[str]:
    """Keys of conf/config.yaml that are no group."""
    return [key for key in _file(CONF, ".", "config") if key not in ("defaults", "hydra")]


def choices(group: str) -> list[str]:
    """Names one can give to a group: its yaml files."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def _parse(overrides: list[str]) -> list[Any]:
    try:
        return [_parse_one(override) for override in overrides]
    except HydraException as error:
        raise UserError(f"command line: {one_line(error)}") from error


@lru_cache(maxsize=4096)
def _parse_one(override: str) -> Any:
    """Rows and columns of a table repeat their overrides, and parsing one takes a millisecond."""
    return OverridesParser.create().parse_overrides([override])[0]


def _sweep(override: Any) -> list[str]:
    try:
        return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
    except (HydraException, AssertionError) as error:  # an interval; or glob(), which Hydra reads only when it starts
        raise UserError(f"command line: '{override.input_line}' does not list its values: write them out") from error


def compose(overrides: list[str]) -> tuple[dict[str, Any], Mapping[str, str]]:
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
    except (HydraException, OmegaConfBaseException, YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UserError(_unknown_key(overrides) or f"configuration: {one_line(error)}") from error
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


def keys(group: str, name: str) -> frozenset[str]:
    """The settings that a file of a group has, at its top."""
    return frozenset(_file(CONF, group, name))


@lru_cache(maxsize=256)
def _file(folder: Path, group: str, name: str) -> dict[str, Any]:
    return plain(OmegaConf.load(folder / group / f"{name}.yaml"))


@lru_cache(maxsize=16)
def _compose_defaults(folder: Path, overrides: tuple[str, ...]) -> tuple[dict[str, Any], Mapping[str, str]]:
    with initialize_config_dir(str(folder), version_base="1.3"):
        composed = hydra_compose("config", overrides=list(overrides), return_hydra_config=True)
    content = plain(composed)
    content.pop("hydra")
    return content, dict(composed.hydra.runtime.choices)


def _check_override(override: Any) -> None:
    """Refuse what would slip past the schema or fail with a long message: `+`/`~` keys, unknown choices, `${...}`."""
    key, line = override.key_or_group, override.input_line
    if override.is_delete() or override.is_add() or override.is_force_add() or override.package is not None:
        there = [*GROUPS, *_top_keys()]
        advice = f"every key exists already, so write {key}=value" if key.split(".")[0] in there else (
            f"there is no '{key}'{nearest(key, there)}; a table is run by make reproduce TABLE=name")
        raise UserError(f"command line: '{line}' adds, moves or deletes a key; {advice}")
    if key.startswith("hydra.searchpath"):
        raise UserError(f"command line: '{line}': configurations are read from {CONF} alone: put your files there")
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
            known = list(_flatten(hydra_compose("config", overrides=grouped)))
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


def plain(config: Any) -> dict[str, Any]:
    """What OmegaConf holds, as plain nested data."""
    return cast(dict[str, Any], OmegaConf.to_container(config))


def require_sane(content: Any, place: str = "") -> None:
    """Refuse what no setting may be: a number that is not finite or past 64 bits, an empty text, a control character,
    the text None.

    Raises UserError: one line, key, what to give.
    """
    if isinstance(content, dict):
        for key, value in content.items():
            require_sane(value, f"{place}.{key}" if place else str(key))
    elif isinstance(content, list):
        for index, value in enumerate(content):
            require_sane(value, f"{place}.{index}")
    elif problem := _insane(content):
        raise UserError(f"{place}: {problem}")


def _insane(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is no finite number"
    if isinstance(value, int) and abs(value) > _LARGEST:
        return f"{value} is past 64 bits"
    if isinstance(value, str) and not value.strip():
        return "is empty: give it a value, or null where the file says that there may be none"
    if value == "None":
        return "is the text None: write null for none"
    if isinstance(value, str) and any(ord(character) < 32 and character not in "\n\t" for character in value):
        return f"{value!r} holds a control character"
    return ""


def one_line(error: Exception) -> str:
    """A library's message without its line ends."""
    return " ".join(str(error).split())
