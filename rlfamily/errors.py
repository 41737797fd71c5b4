"""The one error type a user sees, and the nearest-name hint that goes with it."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError
    from pydantic_core import ErrorDetails


class UserError(Exception):
    """A mistake the user can mend. The message is one line: what, where, what to do. Exit code 2."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the closest of `choices`, or ``""`` when none is close."""
    matches = difflib.get_close_matches(str(name), [str(choice) for choice in choices], n=1, cutoff=0.6)
    return f" (did you mean '{matches[0]}'?)" if matches else ""


class Misfit(ValueError):
    """Settings that the class their `kind` names refuses: raised inside a validator, so that `describe` can look in."""

    def __init__(self, schema: type[BaseModel], error: ValidationError) -> None:
        super().__init__(str(error))
        self.schema, self.error = schema, error


def describe(error: ValidationError, model: type[BaseModel], place: tuple[str, ...] = ()) -> str:
    """Turn the first problem of a pydantic error into one line: key, what is wrong, nearest valid name.

    `place` is where the model stands in the settings.
    """
    first = _most_telling(error.errors(include_url=False))
    inside = (*place, *(str(part) for part in _untagged(model, first["loc"])))
    if isinstance(inner := first.get("ctx", {}).get("error"), Misfit):
        return describe(inner.error, inner.schema, inside)
    where = ".".join(inside)
    if first["type"] == "extra_forbidden":
        return f"unknown key '{where}'{nearest(str(first['loc'][-1]), _siblings(model, first['loc'][:-1]))}"
    if first["type"] == "missing":
        return f"missing key '{where}': give it a value"
    message = first["msg"].removeprefix("Value error, ")
    given = first["input"]
    shown = f", got {given!r}" if isinstance(given, str | int | float | bool) else ""
    return f"{where}: {message}{shown}" if where else message


def _most_telling(problems: list[ErrorDetails]) -> ErrorDetails:
    """A misspelt key is both missing and unknown: the unknown one says more. Else the first problem."""
    missing = [problem["loc"] for problem in problems if problem["type"] == "missing"]
    for problem in problems:
        *place, name = problem["loc"] or ("",)
        beside = [str(loc[-1]) for loc in missing if list(loc[:-1]) == place]
        if problem["type"] == "extra_forbidden" and difflib.get_close_matches(str(name), beside, cutoff=0.85):
            return problem
    return problems[0]


def _untagged(model: type[BaseModel], path: tuple[int | str, ...]) -> list[int | str]:
    """The path as a user writes it: pydantic puts the tag of a discriminated union in, which is no key."""
    kept: list[int | str] = []
    for place, part in enumerate(path):
        if place == len(path) - 1 or not _is_tag(model, path[:place], part):
            kept.append(part)
    return kept


def _is_tag(model: Any, before: tuple[int | str, ...], part: int | str) -> bool:
    return isinstance(part, str) and part not in _siblings(model, before) and part in _tags(model, before)


def _tags(model: Any, path: tuple[int | str, ...]) -> list[str]:
    """Values of the `kind` fields of the union at `path`."""
    return [str(tag) for member in _members(_walk(model, path)) if "kind" in member.model_fields
            for tag in typing.get_args(member.model_fields["kind"].annotation)]


def _siblings(model: Any, path: tuple[int | str, ...]) -> list[str]:
    """Field names valid at `path` below `model`; empty when the path leaves pydantic models."""
    return [name for member in _members(_walk(model, path)) for name in member.model_fields]


def _walk(model: Any, path: tuple[int | str, ...]) -> Any:
    """The annotation at `path`; a union's tag selects its member."""
    current = model
    for part in path:
        members = _members(current)
        fields = {name: field for member in members for name, field in member.model_fields.items()}
        tagged = [member for member in members if "kind" in member.model_fields
                  and part in typing.get_args(member.model_fields["kind"].annotation)]
        current = fields[part].annotation if part in fields else tagged[0] if tagged else None
    return current


def _members(annotation: Any) -> list[Any]:
    """The pydantic models an annotation may hold."""
    if hasattr(annotation, "model_fields"):
        return [annotation]
    return [member for inner in typing.get_args(annotation) for member in _members(inner)]


def hub_refusal(error: BaseException, revision: str) -> str:
    """What a hub refused, and what to do: from an error of its client or one that follows from it; "" if it did not.

    Told by the names of their classes, so that the client need not be imported.
    """
    advice = {
        "GatedRepoError": "is gated: accept its terms on the hub, and set HF_TOKEN",
        "RevisionNotFoundError": f"has no revision '{revision}': correct the revision",
        "RepositoryNotFoundError": "is not there, or private: check the name, or set HF_TOKEN",
    }
    chain: list[BaseException] = []
    begun: BaseException | None = error
    while begun is not None and begun not in chain:
        chain.append(begun)
        begun = begun.__cause__ or begun.__context__
    named = {type(one).__name__ for one in chain}
    if "DatasetNotFoundError" in named:  # begins anew, and only its text says why
        named.add("GatedRepoError" if "gated" in str(error) else "RepositoryNotFoundError")
    return next((told for name, told in advice.items() if name in named), "")
