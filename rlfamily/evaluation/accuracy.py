"""Whether a reward tells the better of two responses: its accuracy on held-out pairs, pair by pair."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rlfamily.evaluation.sampler import CHUNK
from rlfamily.examples import Example, Pair, read_pairs
from rlfamily.models import sharding
from rlfamily.place import Place
from rlfamily.records import write_jsonl
from rlfamily.rewards import AnyReward, Reward
from rlfamily.rollout.rewarding import task_reward


def write_accuracy(
    place: Place, data: Path, models: Mapping[str, Path], task: str, config: AnyReward
) -> dict[str, Any]:
    """A line of accuracy.jsonl for each pair of pairs_test.jsonl.

    `margin` is what the chosen response gets above the rejected one; `right` is 1 where that is positive, 0 where it is
    negative, 0.5 for equal rewards. `weighed` is that times the pair's share of its subset: its mean is the subset's
    weighted accuracy.
    """
    pairs = read_pairs(data / "pairs_test.jsonl")
    reward = task_reward(place, task, config, models, sharding.accelerator(place.hardware).device)
    margins: list[float] = []
    for start in range(0, len(pairs), CHUNK):
        place.progress(start, len(pairs), pairs[start].subset)
        margins += _margins(reward, pairs[start:start + CHUNK])
    weights: defaultdict[str, list[float]] = defaultdict(list)
    for pair in pairs:
        weights[pair.subset].append(pair.weight)
    rights = [(1 + (margin > 0) - (margin < 0)) / 2 for margin in margins]
    rows = [{"item": item, "subset": pair.subset, "right": right, "margin": margin,
             "weighed": right * pair.weight / fmean(weights[pair.subset])}
            for item, (pair, right, margin) in enumerate(zip(pairs, rights, margins, strict=True))]
    write_jsonl(place.out / "accuracy.jsonl", rows)
    return {"pairs": len(pairs), **place.notes}


def _margins(reward: Reward, pairs: Sequence[Pair]) -> list[float]:
    asked = [Example(f"pair-{place}", pair.prompt, pair.meta) for place, pair in enumerate(pairs)]
    chosen, rejected = (reward.score(asked, responses) for responses in (
        [pair.chosen for pair in pairs], [pair.rejected for pair in pairs]))
    return [better.reward - worse.reward for better, worse in zip(chosen, rejected, strict=True)]
