"""Seconds and memory of a response: each prompt alone, and nothing that was drawn before."""

from __future__ import annotations

from pathlib import Path

from small import build_world, place

from rlfamily.decoding import best_of_n
from rlfamily.evaluation.guides import GuideFolders
from rlfamily.evaluation.latency import write_latency
from rlfamily.records import read_jsonl
from rlfamily.rollout.settings import Generation, Guiding


def test_every_prompt_is_answered_alone_and_anew(tmp_path: Path) -> None:
    (tmp_path / "world").mkdir()
    world = build_world(tmp_path / "world")
    task = world.config.task
    settings = Generation(prompts=3, draws=1, greedy=False, limits=task.evaluation, distribution=task.distribution,
                          decoding=best_of_n.Config(kind="best_of_n", samples=4), engine="torch")
    guiding = Guiding(task=task.kind, reward=task.reward.unsourced())
    rows = []
    for _ in range(2):  # a second run finds nothing of the first
        here = place(tmp_path / "here")
        told = write_latency(here, world.data, world.base.parent, world.finetuning, settings, guiding, GuideFolders())
        rows.append(list(read_jsonl(here.out / "latency.jsonl")))
        assert told["responses"] == 3 and not list(here.shared.glob("samples/*/*"))
    assert [row["item"] for row in rows[0]] == [0, 1, 2]
    for one, two in zip(*rows, strict=True):
        assert one["tokens"] == two["tokens"] >= 4 and one["length"] == two["length"]
        assert one["seconds"] > 0 and one["cpu_seconds"] > 0 and one["peak_mib"] > 50
