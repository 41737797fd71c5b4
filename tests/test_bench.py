"""`make bench` runs and counts what it says; its figures are nobody's promise."""

from __future__ import annotations

import bench
import pytest


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(bench, "ROUNDS", 1)
    monkeypatch.setattr(bench, "WARM_UP", 0)
    monkeypatch.setattr(bench, "LENGTHS", ((8, 4),))
    monkeypatch.setattr(bench, "STAGES", 2)


def test_sides_are_measured():
    (line,) = bench.generation()
    assert (line["rows"], line["prompt"], line["new"]) == (bench.PROMPTS * bench.GROUP, 8, 4)
    assert line["ratio"] == line["torch engine"] / line["transformers"] > 0
    assert bench.stages()["no-op stages per second"] > 0


@pytest.mark.vllm
def test_engines_are_measured():
    (line,) = bench.engines()
    assert line["vllm / torch"] == line["vllm tokens per CPU second"] / line["torch tokens per CPU second"] > 0
    assert line["vllm hand-over, CPU seconds"] > 0
