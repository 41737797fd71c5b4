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
def reference(world, tmp_path_factory):
    """A folder with logged responses of the base model, one to four a prompt, and their log-probs under it."""
    from building import finetuning_of, write_logged

    from rlfamily.evaluation.reference import write_reference

    here = place(tmp_path_factory.mktemp("reference"))
    write_logged(world, here.work)
    write_reference(here, here.work, world.base, finetuning_of(world), world.config.task.max_tokens_demonstration)
    return here.out


@pytest.fixture(scope="session")
def folders(pairs, reference):
    """What each method trains on beside prompts: keyword arguments of `train`, by the method's name."""
    from rlfamily import algorithms

    beside = {"pairs": {"pairs": pairs}, "logged": {"reference": reference}}
    return {name: beside.get(algorithms.get(name).SOURCE, {}) for name in algorithms.names()}
