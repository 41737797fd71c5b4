"""Guided decoding: a beam search over parts by a value function (IRO) or by two models, against two others' ways."""

from __future__ import annotations

import statistics
from typing import Any, NamedTuple

import torch

from bench.drawing import MEDIUM, SMALL, TINY, Shape, draws
from bench.measure import Result, alternate, machine, spread
from bench.searches import BEAMS, BRANCHES, THEIRS, Models, Wanted, models, sides, wanted
from rlfamily.decoding import Guide
from rlfamily.errors import UserError

COLUMNS = {"model": "parameters", "case": "prompts", "guide": "guide", "tokens": "tokens drawn", "ours": "ours, CPU s",
           "loop": "loop over `generate`, CPU s", "chunked": "weak-to-strong search, CPU s",
           "ratio": "ours / loop", "to_chunked": "ours / weak-to-strong"}
GUIDES: dict[Guide, str] = {"values": "one value function", "pair": "two models"}
ABOUT = (
    f"Beam search over parts of responses: K = {BEAMS} beams of B = {BRANCHES} branches, parts of L = 16 tokens, 64 "
    "new tokens a candidate, on one thread, fp32. The guide, one value function (IRO) or two models (weak-to-strong "
    "search), is as large as the policy. All sides draw by the same noise: the response to every prompt was the same "
    "on all sides, token for token, before any time counted.")
NOTES = [
    "*Loop over `generate`*: every part is a call of transformers' `generate` on all prompts' candidates with all that "
    "they said so far, and every score a plain pass over whole sequences.",
    "*Weak-to-strong search*: its public code's way. A prompt at a time, its candidates from the first token on with a "
    "cache that is reordered when beams are kept; scores are plain passes over whole sequences, one for each model. "
    "Left out in its favour: it decodes candidates to text and tokenises them again for each score.",
    "*Ours*: the stage `generate` as it runs, without reading and writing: prompts passed once for all candidates, all "
    "prompts together, and each token once through each model.",
    "No candidate ends early, so that all sides pass the same tokens; ours drops rows that have ended, the others do "
    "not.",
]


class Case(NamedTuple):
    """What is searched with which models, by which guides, and in how many rounds that count."""

    model: str
    shape: Shape
    name: str
    given: Wanted
    guides: tuple[Guide, ...]
    rounds: int


def cases(quick: bool) -> list[Case]:
    """Both guides at the small size; of the larger one, where a call takes many seconds, the value function."""
    if quick:
        return [_case("tiny", TINY, 9, 2, ("values", "pair"), 1, new_tokens=10, chunk=4)]
    return [_case("0.8M", SMALL, 96, 4, ("values", "pair"), 3), _case("0.8M", SMALL, 384, 2, ("values",), 3),
            _case("12.7M", MEDIUM, 96, 1, ("values",), 3)]


def _case(
    model: str, shape: Shape, length: int, prompts: int, guides: tuple[Guide, ...], rounds: int, new_tokens: int = 64,
    chunk: int = 16,
) -> Case:
    given = draws([length] * prompts, 1, new_tokens, shape.vocab_size)
    return Case(model, shape, f"{prompts} of {length} tokens",
                wanted(given.prompts, new_tokens, chunk, shape.vocab_size), guides, rounds)


def agree(found: Models, given: Wanted, guide: Guide, where: str) -> None:
    """Raise UserError unless every side returns the same tokens."""
    told = {name: side() for name, side in sides(found, given, guide).items()}
    for name in THEIRS:
        if told[name] != told["ours"]:
            raise UserError(f"bench: decoding, {where}: responses of our search and of the other ({name}) differ, so "
                            "no time counts: see tests/models/test_sessions.py")


def measured(case: Case, guide: Guide) -> dict[str, Any]:
    """One row of the table: CPU seconds of every side, and ours over theirs."""
    found = models(case.shape, len(case.given.prompts[0]) + case.given.new_tokens)
    agree(found, case.given, guide, f"{case.model}, {case.name}, {guide}")
    seconds = {name: [cost.cpu for cost in costs]
               for name, costs in alternate(sides(found, case.given, guide), case.rounds, warm_up=0).items()}
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {"model": case.model, "case": case.name, "guide": GUIDES[guide], "tokens": case.given.tokens,
            **{name: spread(values) for name, values in seconds.items()},
            "ratio": median["ours"] / median["loop"], "to_chunked": median["ours"] / median["chunked"]}


def run(quick: bool) -> Result:
    """Every case with all sides. Raises UserError when they do not return the same."""
    torch.set_num_threads(1)
    rows = [measured(case, guide) for case in cases(quick) for guide in case.guides]
    return {"title": "Guided decoding", "about": ABOUT, "quick": quick, "machine": machine(),
            "tables": [{"title": "CPU seconds of a search", "columns": COLUMNS, "rows": rows}], "notes": NOTES}
