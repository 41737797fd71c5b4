"""Pages that show what every method answered to the same prompts, side by side.

A page a model, task and stretch of prompts. They need no script: the choice of model, task and stretch is a row of
links. Whatever a model wrote is shown as text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eval import agreement
from eval.artifacts import ROWS_FILE, Archive
from eval.html import render
from eval.searches import Candidate, searches
from eval.tables import TableFrame

PER_PAGE = 40  # prompts
NOT_PARTS = {"mode", "item", "draw", "benchmark", "prompt", "response", "reward", "length", "truncated"}


@dataclass(frozen=True)
class Answer:
    """One method's response: its reward and the parts of it, what judges said ("RLOO: loss"), how it came about."""

    row: str
    response: str
    reward: Any
    parts: dict[str, float]
    verdicts: tuple[str, ...]
    search: tuple[Candidate, ...] = ()


@dataclass(frozen=True)
class Page:
    """One page: where it stands, and (item, prompt, answers) of its stretch."""

    model: str
    column: str
    file: str
    stretch: str
    prompts: tuple[tuple[int, str, tuple[Answer, ...]], ...]


def sample_pages(archive: Archive, frame: TableFrame) -> dict[str, str]:
    """File name -> text of every page of one experiment of kind samples; {} when nothing was scored yet."""
    judged = agreement.judgements(archive)
    made: list[Page] = []
    for m, model in enumerate(frame.models):
        for c, column in enumerate(frame.experiment.columns):
            made += _stretches(archive, frame, judged, (model, column), f"m{m}-t{c}")
    pages = {page.file: render("samples.html", frame=frame, page=page, pages=made) for page in made}
    return pages | ({"index.html": pages[made[0].file]} if made else {})


def _stretches(
    archive: Archive, frame: TableFrame, judged: dict[agreement.Sides, list[str]], place: tuple[str, str], name: str
) -> list[Page]:
    model, column = place
    keys = _keys(archive, frame, model, column, "score")
    traces = {row: searches(archive, key) for row, key in _keys(archive, frame, model, column, "trace").items()}
    answers = {row: _answers(archive, frame, column, key) for row, key in keys.items()}
    items = sorted({item for found in answers.values() for item in found})
    verdicts = _verdicts(archive, judged, keys)
    pages = []
    for start in range(0, len(items), PER_PAGE):
        stretch = items[start:start + PER_PAGE]
        prompts = []
        for item in stretch:
            there = {row: found[item] for row, found in answers.items() if item in found}
            prompts.append((item, next(iter(there.values())).get("prompt", "(no prompt)"), tuple(
                _answer(row, one, tuple(verdicts.get((row, item), ())), traces.get(row, {}).get(item, ()))
                for row, one in there.items())))
        pages.append(Page(model, column, f"{name}-{start // PER_PAGE}.html",
                          f"{start + 1} to {start + len(stretch)}", tuple(prompts)))
    return pages


def _keys(archive: Archive, frame: TableFrame, model: str, column: str, role: str) -> dict[str, str]:
    """Row -> what a stage gave its first seed that has it."""
    keys: dict[str, str] = {}
    for cell in archive.index(frame.name)[0].cells:
        key = cell.stages.get(role, "")
        if (cell.model, cell.column) == (model, column) and key and archive.manifest(key):
            keys.setdefault(cell.row, key)
    return {row: keys[row] for row in frame.rows if row in keys}


def _answers(archive: Archive, frame: TableFrame, column: str, key: str) -> dict[int, dict[str, Any]]:
    where = {"mode": "greedy", **frame.experiment.columns[column].where}
    return {row["item"]: row for row in archive.texts(key, ROWS_FILE["score"]) if isinstance(row.get("item"), int)
            and all(row.get(name) == value for name, value in where.items())}


def _answer(
    row: str, one: dict[str, Any], verdicts: tuple[str, ...], search: tuple[Candidate, ...] = ()
) -> Answer:
    parts = {name: value for name, value in one.items()
             if name not in NOT_PARTS and isinstance(value, int | float)}
    return Answer(row, one.get("response", "(no response)"), one.get("reward"), parts, verdicts, search)


def _verdicts(
    archive: Archive, judged: dict[agreement.Sides, list[str]], keys: dict[str, str]
) -> dict[tuple[str, int], list[str]]:
    """(row, item) -> what judges said about it against other rows of the page, from its own side."""
    said: dict[tuple[str, int], list[str]] = {}
    for ours, our_key in keys.items():
        for theirs, their_key in keys.items():
            there = judged.get((our_key, their_key), [])
            for key in there:
                judge = f" ({agreement.judge_of(archive, key)})" if len(there) > 1 else ""
                for item, word in agreement.verdicts(archive, key).items():
                    said.setdefault((ours, item), []).append(f"{word} against {theirs}{judge}")
    return said
