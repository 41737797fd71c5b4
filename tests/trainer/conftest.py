"""Preference pairs of the small world."""

from __future__ import annotations

import pytest
from small import place


@pytest.fixture(scope="session")
def pairs(world, tmp_path_factory):
    """A folder with pairs drawn from the base model."""
    from building import finetuning_of

    from rlfamily.trainer import evaluation

    here = place(tmp_path_factory.mktemp("pairs"))
    config = {"prompts": 3000, "temperature": 1.0, "finetuning": finetuning_of(world).model_dump(), "task": world.limits,
              "engine": "torch", "seed": 0}
    evaluation.write_pairs(here, world.data, world.base, {}, config)
    return here.out


@pytest.fixture(scope="session")
def folders(pairs):
    """What each method trains on beside prompts: keyword arguments of `train`, by the method's name."""
    from rlfamily import algorithms

    return {name: {"pairs": pairs} if algorithms.get(name).SOURCE == "pairs" else {} for name in algorithms.names()}
