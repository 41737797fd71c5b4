"""Consume the training loop: write its records, checkpoint, resume, and leave a finished folder.

The files are the truth: metrics.jsonl holds deterministic numbers only, so that a resumed run equals an uninterrupted
one byte for byte; seconds go to timings.jsonl. After a crash the files are cut back to the last checkpoint.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import IO, Any

import torch

from rlfamily.trainer import checkpoint
from rlfamily.trainer.loop import StepRecord, Trainer
from rlfamily.trainer.metrics import largest_mismatch
from rlfamily.trainer.tracking import Tracker

LOGS = ("metrics.jsonl", "timings.jsonl", "samples.jsonl")
NOTE_STEPS = 50  # the progress note shows means over the last this many steps
SAMPLES_KEPT = 200  # steps whose first group is kept for reading, spread over the run


def record(
    trainer: Trainer, work: Path, out: Path, tracker: Tracker,
    progress: Callable[[int, int, str], None], checkpoint_seconds: float,
) -> dict[str, Any]:
    """Train to the end, from the checkpoint in `work` if there is one; fill `out` with model/ and the logs.

    Returns the totals for the manifest: steps, tokens of the responses, seconds by phase, processes, and the largest
    disagreement with the engine that drew the responses.
    """
    main = trainer.accelerator.is_main_process
    if main:
        work.mkdir(parents=True, exist_ok=True)
    trainer.accelerator.wait_for_everyone()
    path = work / "checkpoint.pt"
    offsets = _resumed(trainer, path)
    if not main:
        _follow(trainer, path, out)
        return {}
    logs = {name: _reopen(work / name, offset) for name, offset in offsets.items()}
    total, saved_at = trainer.source.total_steps, time.monotonic()
    recent: deque[dict[str, float]] = deque(maxlen=NOTE_STEPS)
    for one in trainer.steps():
        _write(logs, one, keep_samples=one.step % max(1, total // SAMPLES_KEPT) == 0)
        tracker.log(one)
        recent.append(one.metrics)
        progress(trainer.step, total, _note(recent))
        if _agreed(trainer, trainer.step == total or time.monotonic() - saved_at >= checkpoint_seconds):
            checkpoint.save(path, trainer, {name: _flush(file) for name, file in logs.items()})
            saved_at = time.monotonic()
    for file in logs.values():
        file.close()
    trainer.accelerator.wait_for_everyone()
    return _finish(trainer, work, out, tracker)


def _resumed(trainer: Trainer, path: Path) -> dict[str, int]:
    """Bring the trainer to its checkpoint, if there is one that can be used; returns where each log ends there."""
    content = checkpoint.read(path, trainer)
    offsets: dict[str, int] = content["extra"] if content else {}
    short = [name for name, offset in offsets.items() if _bytes(path.with_name(name)) < offset]
    trainer.accelerator.wait_for_everyone()
    if short:
        checkpoint.set_aside(path, f"{short[0]} is shorter than when it was written", trainer)
    elif content:
        return checkpoint.restore(content, trainer)
    return dict.fromkeys(LOGS, 0)


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _follow(trainer: Trainer, path: Path, out: Path) -> None:
    """What the processes do that write nothing: train, and give their shares to what the first one writes."""
    for _ in trainer.steps():
        if _agreed(trainer, False):
            checkpoint.save(path, trainer, {})
    trainer.accelerator.wait_for_everyone()
    if trainer.sharded:
        trainer.learner.save(out / "model")


def _agreed(trainer: Trainer, wanted: bool) -> bool:
    """What the first process wants, known to all of them where all must take part: clocks differ."""
    if not trainer.sharded:
        return wanted
    wishes = trainer.accelerator.reduce(torch.tensor(float(wanted), device=trainer.learner.device), reduction="sum")
    return bool(wishes > 0)


def _finish(trainer: Trainer, work: Path, out: Path, tracker: Tracker) -> dict[str, Any]:
    for name in LOGS:
        shutil.copyfile(work / name, out / name)
    trainer.learner.save(out / "model")
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]
    timings = [json.loads(line) for line in (out / "timings.jsonl").read_text("utf-8").splitlines()]
    tracker.finish(metrics)
    seconds = {name: round(sum(row.get(name, 0.0) for row in timings), 3)
               for name in sorted({key for row in timings for key in row if key.startswith("seconds_")})}
    return {"steps": len(metrics), "tokens": sum(row["tokens"] for row in metrics), **seconds,
            "processes": trainer.accelerator.num_processes, **largest_mismatch(metrics)}


def _reopen(path: Path, offset: int) -> IO[bytes]:
    """Open for appending after dropping what was written since the checkpoint."""
    file = path.open("r+b" if path.exists() else "w+b")
    file.truncate(offset)
    file.seek(offset)
    return file


def _flush(file: IO[bytes]) -> int:
    file.flush()
    os.fsync(file.fileno())
    return file.tell()


def _write(logs: dict[str, IO[bytes]], record: StepRecord, keep_samples: bool) -> None:
    rows = {
        "metrics.jsonl": [record.metrics],
        "timings.jsonl": [{"step": record.step, **record.timings}],
        "samples.jsonl": record.samples if keep_samples else [],
    }
    for name, file in logs.items():
        for row in rows[name]:
            file.write((json.dumps(row, sort_keys=True) + "\n").encode())


def _note(recent: Sequence[dict[str, float]]) -> str:
    """Means over the last steps: one small batch says little."""
    shown = {short: [row[name] for row in recent if name in row]
             for short, name in (("valid", "mean_valid"), ("reward", "reward"), ("loss", "loss"))}
    return "  ".join(f"{short} {fmean(values):z.3f}" for short, values in shown.items() if values)
