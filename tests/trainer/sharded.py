"""What tests of sharded training share: how it is asked for, and when it equals training with whole weights."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

SHARDED = {"processes": 2, "sharding": "fsdp"}
# Five rows a step over two or three processes, two a pass: processes differ in passes, or have no row.
SHAPE = {"batch_prompts": 5, "prompts": 700}


def rows_of(folder):
    return [json.loads(line) for line in (folder / "out" / "metrics.jsonl").read_text().splitlines()]


def weights_of(folder):
    return load_file(folder / "out" / "model" / "model.safetensors")


def same(actual, expected, atol=1e-5):
    """The tolerance of replicated processes."""
    ours, theirs = rows_of(actual), rows_of(expected)
    assert len(ours) == len(theirs) >= 3
    for row, other in zip(ours, theirs, strict=True):
        assert row == pytest.approx(other, abs=1e-5, rel=1e-5)
    first, second = weights_of(expected), weights_of(actual)
    assert {name: (weight.shape, weight.dtype) for name, weight in first.items()} == {
        name: (weight.shape, weight.dtype) for name, weight in second.items()}
    for name, weight in first.items():
        torch.testing.assert_close(second[name], weight, atol=atol, rtol=0)
