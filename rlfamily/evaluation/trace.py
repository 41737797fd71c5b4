"""How responses came about: the candidates that a decoder weighed, part by part, and which it kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlfamily import decoding
from rlfamily.decoding import Choice, Guide
from rlfamily.evaluation.guides import GuideFolders
from rlfamily.evaluation.sampler import Prompts, Sampler
from rlfamily.examples import held_out
from rlfamily.models import Finetuning
from rlfamily.place import Place
from rlfamily.records import write_jsonl
from rlfamily.rollout import Completion
from rlfamily.rollout.beams import GrownBeams
from rlfamily.rollout.bench import EngineBench
from rlfamily.rollout.settings import Generation, Guiding
from rlfamily.streams import held_out_seed


@dataclass
class WatchedBench(EngineBench):
    """A bench of one request that keeps what it was asked: `seen` are the candidates of every round but the last, what
    the guide said of each, and whom each of the next goes on from. `last` is what was said of the last ones.
    """

    seen: list[tuple[list[list[int]], list[float | None], list[int]]] = field(default_factory=list)
    beams: GrownBeams | None = None
    last: list[float] | None = None

    def grow(self, width: int, guide: Guide) -> GrownBeams:
        """Rows that are watched."""
        self.beams = super().grow(width, guide)
        self.beams.watch = lambda rows, told, index: self.seen.append(([row.ids for row in rows], [*told], [*index]))
        return self.beams

    def rate(self, guide: Guide, answers: Sequence[Sequence[Completion]]) -> list[list[float]]:
        """What the guide says of whole responses."""
        rated = super().rate(guide, answers)
        self.last = rated[0]
        return rated

    def values(self) -> list[float | None]:
        """What was said of the last candidates: when they were rated, or else as they grew."""
        return [*self.last] if self.last is not None else self.beams.told if self.beams is not None else []


def write_trace(
    place: Place, data: Path, policy: Path, finetuning: Finetuning, settings: Generation, version: str,
    guiding: Guiding | None, folders: GuideFolders,
) -> dict[str, Any]:
    """The first sampled response to each of `settings.prompts` held-out prompts once more, into trace.jsonl.

    Streams are those of the real responses, so that it is they whose making is shown.
    """
    prompts = Prompts(data.name, "test", held_out(data, settings.prompts), lambda example: held_out_seed(example.id))
    sampler = Sampler(place, policy / "model", finetuning, settings, version, guiding, folders)
    rows: list[dict[str, Any]] = []
    for number, item in enumerate(prompts.examples):
        place.progress(number, len(prompts.examples), "trace")
        bench = sampler.bench(prompts, "sample", [(item, 0)], WatchedBench)
        (choice,) = decoding.get(settings.decoding.kind).decode(settings.decoding, bench)
        rows += _rows(sampler, item, bench, choice)
    write_jsonl(place.out / "trace.jsonl", rows)
    return {"candidates": len(rows), **place.notes}


def _rows(sampler: Sampler, item: int, bench: WatchedBench, choice: Choice) -> Iterator[dict[str, Any]]:
    """Candidates round by round: the one before that each goes on from, its new text, its value, whether it goes on."""
    finalists = list(choice.finalists) or [choice.completion]
    chosen = next(place for place, one in enumerate(finalists) if one is choice.completion)
    values = bench.values()
    told = values if len(values) == len(finalists) else [None] * len(finalists)
    rounds = [*bench.seen, ([one.ids for one in finalists], told, [chosen])]
    before: list[list[int]] | None = None
    parents: list[int] = []
    for number, (candidates, said, index) in enumerate(rounds):
        for place, (ids, value) in enumerate(zip(candidates, said, strict=True)):
            parent = parents[place] if before is not None else None
            known = before[parent] if before is not None and parent is not None else []
            yield {"item": item, "round": number, "candidate": place, "parent": parent, "value": value,
                   "kept": place in index, "text": _added(sampler, known, ids)}
        before, parents = candidates, index


def _added(sampler: Sampler, known: list[int], ids: list[int]) -> str:
    """What the text has beyond that of the candidate before it."""
    old, new = (sampler.texts([Completion(part, [], True)])[0] for part in (known, ids))
    return new.removeprefix(old)
