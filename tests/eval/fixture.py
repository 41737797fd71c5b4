"""A small synthetic results folder, written through the record types: what a finished reproduction leaves on disk.

`make_results(root)` returns `root`. The numbers are drawn from named random streams, so two calls write equal bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from rlfamily import experiment
from rlfamily.records import (
    CellEntry,
    Failure,
    FileInfo,
    Index,
    Layout,
    Manifest,
    hash_file,
    write_atomic,
    write_jsonl,
)

HOSTILE = "<script>alert('x')</script> & <b>bold</b> {{ 7*7 }}"
PROMPTS = 48


@dataclass(frozen=True)
class Traits:
    """How a synthetic method behaves: its PG loss from start to end, its noise, and the valid rate it reaches."""

    start: float = 6.0
    end: float = 0.5
    noise: float = 2.5
    valid: float = 0.3


TRAITS = {
    "Experiment 1": Traits(-30.0, -12.0, 2.0, 0.20), "Experiment 1, honest": Traits(-30.0, -12.0, 2.0, 0.30),
    "Experiment 2": Traits(-30.0, -26.0, 1.0, 0.24), "Experiment 2, honest": Traits(-30.0, -26.0, 1.0, 0.34),
    "Experiment 3": Traits(-30.0, -20.0, 2.0, 0.30), "Experiment 3, honest": Traits(-30.0, -20.0, 2.0, 0.40),
    "Experiment 4": Traits(-30.0, -21.0, 4.0, 0.28), "Experiment 4, honest": Traits(-30.0, -21.0, 4.0, 0.38),
    "SFT": Traits(valid=0.20), "RLOO (verifier)": Traits(valid=0.60),
}
# Numbers that only claims use, for experiments whose yaml leaves them out.
CLAIM_METRICS: dict[str, list[dict[str, Any]]] = {
    "topr_fig1": [{"name": f"SFT loss, epoch {epoch + 1}", "stage": "train", "field": "loss", "shown": False,
                   "where": {"epoch": epoch}} for epoch in range(3)],
} | {name: [{"name": "PG loss slope", "stage": "train", "field": "pg_loss", "reduce": "slope", "shown": False}]
     for name in ("topr_fig3", "topr_fig4")}


def key_of(*parts: object) -> str:
    """A stand-in for a content hash."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _rng(*parts: object) -> np.random.Generator:
    return np.random.default_rng(int(key_of(*parts), 16))


def commit(
    root: Path, kind: str, label: str, inputs: dict[str, str], files: dict[str, list[dict[str, Any]]],
    config: dict[str, Any], summary: dict[str, Any] | None = None,
) -> str:
    """Write one artifact with its manifest; return its key. An artifact that is there already is left alone."""
    key = key_of(kind, label, sorted(inputs.items()), json.dumps(config, sort_keys=True))
    layout = Layout(root)
    if layout.committed(key):
        return key
    folder = layout.object(key)
    folder.mkdir(parents=True)
    infos = {}
    for name, rows in files.items():
        write_jsonl(folder / name, rows)
        content = (folder / name).read_bytes()
        infos[name] = FileInfo(bytes=len(content), blake3=blake3(content).hexdigest())
    manifest = Manifest(
        key=key, kind=kind, version="1", label=label, config=config, inputs=inputs, files=infos, summary=summary or {"rows": 1},
        hardware={"kind": "cpu"}, commit="0123456789abcdef0123456789abcdef01234567", dirty=False,
        versions={"torch": "2.13.0+cpu", "python": "3.11.7"}, machine={"cpus": 2, "system": "Linux"},
        started="2026-01-01T00:00:00Z", seconds=12.5, attempts=1)
    write_atomic(folder / "manifest.json", manifest.model_dump_json(indent=1))
    return key


def reseal(root: Path, key: str) -> None:
    """Make a changed artifact what its stage wrote: its files' sizes and hashes as they are now."""
    layout = Layout(root)
    manifest = layout.manifest(key)
    files = {name: FileInfo(bytes=(path := layout.object(key) / name).stat().st_size, blake3=hash_file(path))
             for name in manifest.files}
    write_atomic(layout.object(key) / "manifest.json", manifest.model_copy(update={"files": files}).model_dump_json())


def metrics_rows(name: str, seed: int, traits: Traits, steps: int = 40) -> list[dict[str, Any]]:
    """A run's steps: PG loss from start to end, valid rate up to `valid`, with noise."""
    rng = _rng("metrics", name, seed)
    rows = []
    for step in range(steps):
        progress = step / steps
        rate = float(np.clip(traits.valid * (0.4 + 0.6 * progress) + rng.normal(0, 0.08), 0, 1))
        pg_loss = traits.start + (traits.end - traits.start) * progress + float(rng.normal(0, traits.noise))
        rows.append({
            "step": step, "epoch": int(2 * progress), "progress": progress, "lr": 3e-4, "rows": 4, "tokens": 96,
            "loss": pg_loss / 10, "pg_loss": pg_loss + seed * 0.3, "reward": 4 * rate - 2, "mean_valid": rate,
            "mean_format": min(1.0, rate + 0.4), "entropy": 1.2 - progress, "length": 24.0, "truncated": 0.02,
            "grad_norm": float(abs(rng.normal(1, 0.3))), "weight_mean": 1.0,
        })
    return rows


def sft_rows(seed: int) -> list[dict[str, Any]]:
    """The steps of a supervised run: three epochs whose mean loss falls, most at first."""
    rng = _rng("sft", seed)
    means = [0.5, 0.36, 0.32]
    return [{"step": step, "epoch": step // 20, "progress": step / 60, "loss": means[step // 20]
             + float(rng.normal(0, 0.01)), "tokens": 200, "lr": 3e-4, "rows": 4} for step in range(60)]


def train(root: Path, row: str, seed: int) -> str:
    """Commit a run. All start from a base model; all but SFT from the SFT run of their seed."""
    base = commit(root, "base", f"base model, seed {seed}", {}, {}, {"seed": seed})
    config = {"algorithm": "sft", "seed": seed}
    sft = commit(root, "train", f"SFT · seed {seed}", {"policy": base}, {"metrics.jsonl": sft_rows(seed)}, config)
    if row == "SFT":
        return sft
    rows = metrics_rows(row, seed, TRAITS.get(row, Traits()))
    samples = [{"step": step, "prompt": "use 3 7 12 to make 22 :", "reward": 2.0, "valid": 1, "format": 1,
                "response": "3 + 7 = 10 , 10 + 12 = 22 <answer> ( 3 + 7 ) + 12 </answer>"} for step in range(0, 40, 2)]
    samples[-1]["response"] = HOSTILE
    timings = [{"step": row["step"], "seconds_generate": 0.02, "seconds_update": 0.03} for row in rows]
    return commit(root, "train", f"{row} · seed {seed}", {"policy": sft},
                  {"metrics.jsonl": rows, "timings.jsonl": timings, "samples.jsonl": samples}, {"seed": seed})


def score(root: Path, row: str, seed: int, run: str, draws: int = 2) -> str:
    """Commit the held-out scores of a run: the same puzzles, each with its own difficulty, for every run."""
    rng, valid = _rng("score", row, seed), TRAITS.get(row, Traits()).valid
    difficulty = _rng("puzzles").normal(0, 1, PROMPTS)
    chance = 1 / (1 + np.exp(-(math.log(valid / (1 - valid)) + difficulty + 0.1 * rng.normal())))
    rows = []
    for mode, count in (("greedy", 1), ("sample", draws)):
        for item in range(PROMPTS):
            for attempt in range(count):
                hit = int(rng.random() < chance[item])
                rows.append({"mode": mode, "item": item, "draw": attempt, "prompt": f"puzzle {item} :", "valid": hit,
                             "format": int(hit or rng.random() < 0.6), "reward": 4.0 * hit - 2, "length": 24,
                             "truncated": False, "response": HOSTILE if item == 0 else "<answer> 1 + 2 </answer>"})
    files = {"scores.jsonl": rows}
    return commit(root, "score", f"score {row} · seed {seed}", {"policy": run}, files, {"draws": draws})


def logprobs(root: Path, row: str, seed: int, run: str) -> str:
    """Commit log-probs of training and validation examples, alike in both."""
    rng = _rng("logprobs", row, seed)
    rows = [{"split": split, "item": item, "completion_logp": -0.32 + float(rng.normal(0, 0.05)),
             "completion_tokens": 24, "all_logp": -1.9 + float(rng.normal(0, 0.1)), "all_tokens": 32}
            for split, count in (("train", 80), ("validation", 60)) for item in range(count)]
    return commit(root, "logprobs", f"log-probs {row} · seed {seed}", {"policy": run}, {"logprobs.jsonl": rows}, {})


def write_index(root: Path, name: str, spec: dict[str, Any], cells: list[CellEntry], scale: str) -> None:
    """Write results/index/<name>.json."""
    index = Index(experiment=name, scale=scale, spec=spec, cells=cells)
    write_atomic(Layout(root).index / f"{name}.json", index.model_dump_json(indent=1))


def spec_of(name: str) -> dict[str, Any]:
    """An experiment's yaml, with the metrics its claims need."""
    spec = experiment.load(name).model_dump(mode="json")
    there = {metric["name"] for metric in spec["metrics"]}
    spec["metrics"] += [metric for metric in CLAIM_METRICS.get(name, []) if metric["name"] not in there]
    return spec


def resolved(overrides: list[str], seed: int) -> dict[str, Any]:
    """A config as the overrides leave it: enough for the settings table."""
    config: dict[str, Any] = {"seed": seed, "algorithm": {}}
    for override in overrides:
        key, _, value = override.partition("=")
        if key.startswith("algorithm."):
            config["algorithm"][key.removeprefix("algorithm.")] = int(value) if value.isdigit() else value
    return config


def cell(root: Path, row: str, column: str, seed: int, roles: list[str], overrides: list[str]) -> CellEntry:
    """One finished cell with its artifacts; without roles it is a configuration only."""
    stages = {"train": train(root, row, seed)} if roles else {}
    if "score" in roles:
        stages["score"] = score(root, row, seed, stages["train"])
    if "logprobs" in roles:
        stages["logprobs"] = logprobs(root, row, seed, stages["train"])
    return CellEntry(model="Qwen2.5-0.5B", row=row, column=column, seed=seed, overrides=[*overrides, f"seed={seed}"], stages=stages,
                     names={"task": "countdown_tiny", "model": "qwen2_tiny"}, config=resolved(overrides, seed),
                     status="done")


def fail(root: Path, cell: CellEntry) -> CellEntry:
    """The cell as if its training had failed, with the failure on disk."""
    key = key_of("failed", cell.row, cell.seed)
    error = "ValueError: no pairs <left>"
    write_atomic(Layout(root).failure(key), Failure(
        key=key, kind="train", label=f"{cell.row} · seed {cell.seed}", error=error, log="log.txt",
        traceback=f"Traceback:\n  ...\n{error}", when="2026-01-01T00:00:00Z").model_dump_json())
    return cell.model_copy(update={"stages": {"train": key, "score": key_of("score of", key)}, "status": "failed",
                                   "reason": error})


def make_experiment(root: Path, name: str, scale: str) -> None:
    """Write one experiment's artifacts and index; the DPO run of seed 1 fails."""
    spec = spec_of(name)
    roles = experiment.Experiment.model_validate(spec).stages
    cells = [cell(root, row, column, seed, roles, content["overrides"])
             for row, content in spec["rows"].items() for column in spec["columns"]
             for seed in spec["scales"][scale]["seeds"]]
    cells = [fail(root, one) if (one.row, one.seed) == ("DPO", 1) else one for one in cells]
    write_index(root, name, spec, cells, scale)


def make_results(root: Path, scale: str = "tiny") -> Path:
    """Write artifacts and indexes of every TOPR experiment under `root`."""
    for name in experiment.names():
        if name.startswith("topr_"):
            make_experiment(root, name, scale)
    return root
