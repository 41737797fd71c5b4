"""Preference pairs of the small world."""

from __future__ import annotations

import pytest
from small import place, whole


@pytest.fixture(scope="session")
def pairs(world, tmp_path_factory):
    """A folder with pairs drawn from the base model."""
    from building import finetuning_of

    from rlfamily.evaluation.pairs import write_pairs

    here = place(tmp_path_factory.mktemp("pairs"))
    write_pairs(here, world.data, world.base, {}, world.lesson(3000), whole(), finetuning_of(world), "torch", 0)
    return here.out


@pytest.fixture(scope="session")
def folders(pairs):
    """What each method trains on beside prompts: keyword arguments of `train`, by the method's name."""
    from rlfamily import algorithms

    return {name: {"pairs": pairs} if algorithms.get(name).SOURCE == "pairs" else {} for name in algorithms.names()}
