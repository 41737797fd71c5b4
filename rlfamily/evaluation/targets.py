"""What a method that regresses log-ratios asks of every logged response, and whether a policy could give it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from rlfamily import core
from rlfamily.algorithms import LossBatch
from rlfamily.algorithms.rpo import Config, log_weights, targets
from rlfamily.models import logged
from rlfamily.models.batching import pad
from rlfamily.models.logged import LoggedGroup
from rlfamily.place import Place
from rlfamily.records import write_jsonl


def write_targets(place: Place, reference: Path, config: Config) -> dict[str, Any]:
    """A line of targets.jsonl for each training response; a target is in nats, as the method's `log_ratio` says.

    `reachable` is the largest log-ratio that any policy can have there, -log pi_ref; `beyond` whether the target is
    above it; `effective` how many of the prompt's responses the partition really weighs, 1 / sum of squared shares.
    """
    rows = logged.load(reference / "train.safetensors")
    rows.standardise()
    found: list[dict[str, Any]] = []
    for item in range(len(rows)):
        if item % 1000 == 0:
            place.progress(item, len(rows), "")
        found += ({"item": item, **row} for row in _of_group(rows.group(item), config))
    write_jsonl(place.out / "targets.jsonl", found)
    return {"responses": len(found)}


def _of_group(group: LoggedGroup, config: Config) -> Iterator[dict[str, Any]]:
    mask_NT, width = pad(group.rows, 0).mask_NT.double(), max(map(len, group.ref_logp))
    ref_logp_NT = torch.tensor([row + [0.0] * (width - len(row)) for row in group.ref_logp], dtype=torch.float64)
    rewards_N = torch.tensor(group.rewards, dtype=torch.float64)
    batch = LossBatch(ref_logp_NT, mask_NT, rewards_N, len(rewards_N), ref_logp_NT=ref_logp_NT)
    shares_N = log_weights(batch, config.partition).softmax(0)
    reachable_N = -core.aggregate_tokens(ref_logp_NT, mask_NT, config.log_ratio)
    both = zip(targets(batch, config).tolist(), reachable_N.tolist(), strict=True)
    for response, (target, reachable) in enumerate(both):
        yield {"response": response, "target": target, "reachable": reachable, "beyond": int(target > reachable),
               "effective": float(1 / shares_N.square().sum()), "responses": len(rewards_N),
               "reward": float(rewards_N[response]), "tokens": len(group.rows.completions[response])}
