"""How long a finished policy takes for a response through a decoder, and what memory: one prompt at a time."""

from __future__ import annotations

import resource
import shutil
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from rlfamily.evaluation.guides import GuideFolders
from rlfamily.evaluation.sampler import Prompts, Sampler
from rlfamily.examples import held_out
from rlfamily.models import Finetuning
from rlfamily.place import Place
from rlfamily.records import write_jsonl
from rlfamily.rollout.settings import Generation, Guiding
from rlfamily.streams import held_out_seed

MIB = 1 << 20


def write_latency(
    place: Place, data: Path, policy: Path, finetuning: Finetuning, settings: Generation, guiding: Guiding | None,
    folders: GuideFolders,
) -> dict[str, Any]:
    """Make a sampled response to each of `settings.prompts` held-out prompts, alone, into latency.jsonl.

    No sample of any pool is used: best-of-N draws its N. Before the clock runs the first prompt is answered once, by
    another draw than the one that is timed.
    `peak_mib` is the device's on a GPU, else that of this process, weights and libraries included; it can only grow.
    """
    prompts = Prompts(data.name, "test", held_out(data, settings.prompts), lambda example: held_out_seed(example.id))
    alone = replace(place, shared=place.work / "alone")
    shutil.rmtree(alone.shared, ignore_errors=True)  # what was drawn before a kill is not found again
    sampler = Sampler(alone, policy / "model", finetuning, settings, "latency", guiding, folders)
    sampler.draw(prompts, "sample", [(next(iter(prompts.examples)), 1)])
    rows: list[dict[str, Any]] = []
    for turn, item in enumerate(prompts.examples):
        place.progress(turn, len(prompts.examples), "latency")
        begun, cpu = time.perf_counter(), time.process_time()
        one = sampler.draw(prompts, "sample", [(item, 0)])[0]
        _wait()
        rows.append({"item": item, "seconds": time.perf_counter() - begun, "cpu_seconds": time.process_time() - cpu,
                     "tokens": one.cost.tokens, "length": len(one.completion.ids), "peak_mib": _peak()})
    write_jsonl(place.out / "latency.jsonl", rows)
    return {"responses": len(rows), "seconds_a_response": fmean(row["seconds"] for row in rows), **place.notes}


def _wait() -> None:
    """Until the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _peak() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / MIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
