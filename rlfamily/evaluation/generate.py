"""Responses of a finished policy to held-out prompts, through a decoder, and through the pool of samples."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rlfamily import decoding
from rlfamily.evaluation.guides import GuideFolders
from rlfamily.evaluation.sampler import Prompts, Sampler
from rlfamily.examples import held_out
from rlfamily.models import Finetuning
from rlfamily.place import Place
from rlfamily.records import write_jsonl
from rlfamily.rollout.settings import Generation, Guiding
from rlfamily.streams import held_out_seed

MODES = ("greedy", "sample")


def write_responses(
    place: Place, data: Path, policy: Path, finetuning: Finetuning, settings: Generation, version: str,
    guiding: Guiding | None = None, folders: GuideFolders | None = None,
) -> dict[str, Any]:
    """One greedy, where asked for, and `draws` sampled responses to each held-out prompt, into responses.jsonl.

    A decoder that has no greedy mode gives none. What the pool of samples has already is not drawn again. Streams
    depend on the prompt and the draw alone, so that all cells meet the same chance (paired comparison).
    """
    begun = time.monotonic()
    prompts = Prompts(data.name, "test", held_out(data, settings.prompts), lambda example: held_out_seed(example.id))
    sampler = Sampler(place, policy / "model", finetuning, settings, version, guiding, folders or GuideFolders())
    pool, modes = sampler.pool(prompts), decoding.get(settings.decoding.kind).MODES
    rows = [row for mode, draws in zip(MODES, (int(settings.greedy), settings.draws), strict=True) if mode in modes
            for row in sampler.rows(prompts, mode, draws, pool)]
    write_jsonl(place.out / "responses.jsonl", rows)
    totals = {name: sum(row[name] for row in rows) for name in rows[0] if name.startswith("cost_")}
    return {"responses": len(rows), "drawn": pool.added, **totals, "seconds_generate": time.monotonic() - begun,
            **place.notes}
