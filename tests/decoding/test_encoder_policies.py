"""Policies with an encoder meet guided decoders: alone as in a batch, one beam as the policy itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from guided_world import Guided, decoder
from small import T5, build_world


@pytest.fixture(scope="module")
def encoding(guided, tmp_path_factory):
    """A T5 policy beside the other world's guides; its own pair."""
    world = build_world(tmp_path_factory.mktemp("t5"), *T5)
    tuned, folder = world.policy(trainable=True), tmp_path_factory.mktemp("tuned")
    with torch.no_grad():
        for weight in tuned.model.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(4)))
    tuned.save(folder / "model")
    return Guided(world, replace(guided.folders, pair={"tuned": folder, "untuned": world.base.parent}))


@pytest.mark.parametrize("name", ["iro", "weak to strong", "best of n implicit", "tokens", "args"])
def test_a_batch_is_its_prompts_one_by_one(encoding, tmp_path, name):
    together, _ = encoding.drawn(tmp_path / "together", decoder(name), count=3)
    alone, _ = encoding.drawn(tmp_path / "alone", decoder(name), count=3, hardware={"rollout_batch": 1})
    assert together == alone and len({tuple(row["ids"]) for row in together}) > 1


@pytest.mark.parametrize("name", ["iro", "weak to strong"])
def test_one_beam_of_one_branch_draws_as_the_policy_does(encoding, tmp_path, name):
    rows, _ = encoding.drawn(tmp_path, decoder(name, beams=1, branches=1), count=3)
    plain, _ = encoding.drawn(tmp_path, decoder("plain"), count=3)
    assert [row["ids"] for row in rows] == [row["ids"] for row in plain]
