"""The deviation ledger (experiments/deviations/*.yaml): where we differ from a paper, or had to choose, and why."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from eval.artifacts import read_items


class Deviation(BaseModel):
    """One entry; `scale` limits it to that scale, "" means both. It is printed under every experiment it names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    experiments: list[str] = Field(min_length=1)
    scale: str = ""
    report_says: str
    we_do: str
    why: str
    effect: str


def load(folder: Path) -> list[Deviation]:
    """Read every ledger. Raises UserError (one line) on a wrong entry."""
    return read_items(folder, Deviation)


def touching(deviations: list[Deviation], experiment: str, scale: str) -> list[Deviation]:
    """Those that concern one experiment at one scale, in ledger order."""
    return [one for one in deviations
            if experiment in one.experiments and one.scale in ("", scale)]
