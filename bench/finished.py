"""A results folder in which everything is done and nothing was trained: made-up artifacts of the real stages.

Keys, manifests and files are committed by the store's own code, and rows are as many and as long as those of real
stages, so a command that finds everything done has as much to read as after a real run.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rlfamily.records import write_jsonl
from rlfamily.stages.graph import Node, topological
from rlfamily.stages.kinds import generate
from rlfamily.stages.store import Effort, Order, Store

STEPS = 20  # of a training run: those of the text tasks at tiny scale
Rows = list[dict[str, Any]]


def finish(targets: Iterable[Node], root: Path | str) -> int:
    """Commit a made-up artifact for every stage that `targets` need; returns how many there are."""
    store, nodes = Store(root), topological(targets)
    for node in nodes:
        out = store.layout.work(node.key) / "out"
        out.mkdir(parents=True)
        chance = random.Random(node.key)
        files = WRITERS[node.kind](node, chance) if node.kind in WRITERS else {}
        for name, rows in files.items():
            write_jsonl(out / name, rows)
        store.commit(Order.of(node), out, {}, Effort(started="2026-01-01T00:00:00+00:00", seconds=7.0, attempts=1))
        store.forget_work(node.key)
    return len(nodes)


def _scores(node: Node, chance: random.Random) -> dict[str, Rows]:
    """One greedy and `eval_draws` sampled responses to each held-out prompt."""
    responses = node.inputs["responses"]
    assert isinstance(responses, Node) and isinstance(responses.config, generate.Config)
    settings = responses.config.generation
    modes = ["greedy", *["sample"] * settings.draws]
    return {"scores.jsonl": [
        {"mode": mode, "item": item, "draw": max(0, trial - 1), **_response(item, chance)}
        for trial, mode in enumerate(modes) for item in range(settings.prompts)]}


def _run(node: Node, chance: random.Random) -> dict[str, Rows]:
    steps = range(1, STEPS + 1)
    means = ("loss", "pg_loss", "grad_norm", "entropy", "length", "reward", "truncated", "mean_valid", "mean_gold",
             "kl_old", "kl_ref_k3", "mismatch_mean", "mismatch_max", "mismatch_kl")
    phases = ("seconds_rollout", "seconds_reward", "seconds_update")
    return {
        "metrics.jsonl": [{"step": step, "progress": step / STEPS, "rows": 128, "tokens": 4096,
                           **{name: chance.gauss(0.0, 1e-3) for name in means}} for step in steps],
        "timings.jsonl": [{"step": step, **{name: chance.random() for name in phases}} for step in steps],
        "samples.jsonl": [{"step": step, **_response(step, chance)} for step in steps for _ in range(4)],
    }


def _response(item: int, chance: random.Random) -> dict[str, Any]:
    return {"prompt": f"prompt {item} " * 8, "response": f"response {chance.random()} " * 4, "truncated": False,
            "length": chance.randrange(64), "reward": chance.gauss(0.0, 1.0), "gold": chance.gauss(0.0, 1.0),
            "valid": float(chance.random() < 0.5), "format": 1.0}


WRITERS: dict[str, Callable[[Node, random.Random], dict[str, Rows]]] = {"score": _scores, "train": _run}
