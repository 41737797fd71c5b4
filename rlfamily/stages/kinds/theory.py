"""Theory stage: what the paper proves, computed on enumerable worlds with the package's own losses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from rlfamily import algorithms
from rlfamily.place import Place
from rlfamily.records import write_jsonl
from rlfamily.settings import Strict
from rlfamily.stages.kind import Versioned

VERSION = "3"
WRITES = {"theory.jsonl": "a number that a check gave"}


class Config(Strict):
    """Which checks, and the seed of their worlds."""

    checks: list[str]
    seed: int = Field(ge=0)


@dataclass(frozen=True)
class Inputs:
    """None."""


def uses(config: Config) -> Iterator[Versioned]:
    """The methods whose losses are checked: a check's name begins with its method's, or else it is GN-IVO's.

    Those named guided_ are of decoding, and check no loss.
    """
    yield from map(algorithms.get, sorted({_method(one) for one in config.checks if not one.startswith("guided_")}))


def _method(check: str) -> str:
    """The longest name of a method that the check's begins with: dro_online_value is not a check of dro."""
    return max((name for name in algorithms.names() if check.startswith(f"{name}_")), key=len, default="gnivo")


def run(place: Place, config: Config, inputs: Inputs) -> dict[str, Any]:
    """Raises UserError for an unknown check."""
    from rlfamily.theory import checks

    rows = list(checks.run(config.checks, config.seed, place.progress))
    write_jsonl(place.out / "theory.jsonl", rows)
    return {"numbers": len(rows)}
