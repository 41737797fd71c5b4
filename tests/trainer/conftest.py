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
    from building import finetuning_of

    from rlfamily.evaluation.reference import write_reference

    here = place(tmp_path_factory.mktemp("reference"))
    write_logged(world, here.work)
    write_reference(here, here.work, world.base, finetuning_of(world), world.config.task.max_tokens_demonstration)
    return here.out


def write_logged(world, folder):
    """logged_train.jsonl and logged_validation.jsonl: responses drawn by the base model, rewards made up."""
    from rlfamily.examples import read_examples
    from rlfamily.records import write_jsonl
    from rlfamily.rollout import SamplingParams
    from rlfamily.rollout.collect import decode
    from rlfamily.rollout.torch_engine import TorchEngine

    policy = world.policy()
    for split, count in (("train", 24), ("validation", 4)):
        examples = read_examples(world.data / f"{split}.jsonl")[:count]
        ids = [policy.tokenizer(example.prompt)["input_ids"] for example in examples]
        drawn = TorchEngine(policy, 100).generate(ids, SamplingParams(False, 1.0, 30), range(0, 4 * count, 4), copies=4)
        texts = decode(policy.tokenizer, [one.ids for one in drawn])
        write_jsonl(folder / f"logged_{split}.jsonl", [
            {"id": example.id, "prompt": example.prompt, "responses": texts[4 * n:4 * n + 1 + n % 4],
             "rewards": [float((3 * n + 5 * k) % 7) for k in range(1 + n % 4)]} for n, example in enumerate(examples)])


@pytest.fixture(scope="session")
def folders(pairs, reference):
    """What each method trains on beside prompts: keyword arguments of `train`, by the method's name."""
    from rlfamily import algorithms

    beside = {"pairs": {"pairs": pairs}, "logged": {"reference": reference}}
    return {name: beside.get(algorithms.get(name).SOURCE, {}) for name in algorithms.names()}
