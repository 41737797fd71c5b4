"""Toy stages (toys/toy.py) and their hardware, for tests here and for drivers in processes of their own."""

from __future__ import annotations

from rlfamily.config import build
from rlfamily.hardware import StageHardware
from rlfamily.stages.graph import Node
from rlfamily.stages.kind import get_kind


def shape(folder, seconds=0.0, **changes):
    """The hardware of a toy stage: two CPU slots, its files in `folder`."""
    own = {"kind": "cpu", "slots": 2, "processes": 1, "server_slots": 0, "checkpoint_seconds": seconds, "wandb": "off",
           "wandb_folder": str(folder), "wandb_names": {}, "gpu": None}
    return StageHardware.model_validate(build().hardware.model_dump() | own | changes)


def toy(folder, label, inputs=None, hardware=None, **config):
    """A toy stage that reads `inputs` by name."""
    settings = get_kind("toy").Config(name=label, **config)
    return Node("toy", settings, {"sources": inputs or {}}, shape(folder, **(hardware or {})), label)


def family(folder, label):
    """A stage with vLLM's processes (toys/vllm_family.py), on the only slot."""
    return Node("vllm_family", get_kind("vllm_family").Config(name=label), {}, shape(folder, slots=1), label)
