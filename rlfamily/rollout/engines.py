"""Which engine draws: from a policy that is being trained, or from a finished one. vllm is imported on use only."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlfamily.errors import UserError
from rlfamily.hardware import VllmPlacement
from rlfamily.models.sharded import world_size
from rlfamily.place import Place
from rlfamily.rollout import Engine
from rlfamily.rollout.settings import Drawing
from rlfamily.rollout.vllm_common import UNKNOWN, Start

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from rlfamily.judges import Choose, OpenChooser
    from rlfamily.models import Finetuning
    from rlfamily.models.policy import Policy
    from rlfamily.rewards import OpenClassifier, ReadLogits

INSTALL = "install it with `make setup VLLM=cpu` (Linux, no GPU) or `make setup VLLM=gpu`"


def following(policy: Policy, folder: Path, rollout: Drawing, place: Place, limit: int) -> Engine:
    """An engine that draws from `policy` as it was at the last refresh; `folder` holds the weights it starts from.

    `limit` bounds prompt and response together, in tokens. Raises UserError when the engine cannot be had.
    """
    if rollout.engine == "torch":
        return _torch(policy, place)
    return _vllm(folder, policy.dtype, policy.stop_ids, policy, place, limit)


def frozen(
    folder: Path, finetuning: Finetuning, device: torch.device, engine: str, place: Place, limit: int
) -> tuple[Engine, PreTrainedTokenizerBase]:
    """An engine for the weights in `folder`, and their tokenizer. Raises UserError when the engine cannot be had."""
    from rlfamily.models import policy

    if engine == "torch":
        loaded = policy.load(folder, finetuning, device, trainable=False)
        return _torch(loaded, place), loaded.tokenizer
    tokenizer = policy.load_tokenizer(folder)
    return _vllm(folder, finetuning.dtype, policy.load_ends(folder), None, place, limit), tokenizer


def open_chooser(place: Place) -> OpenChooser:
    """What opens a judge's model in vLLM, in this process. Raises UserError, when called, where that cannot be."""
    def opened(folder: Path, dtype: str, longest: int) -> Choose:
        require("vllm")
        from rlfamily.rollout.vllm_engine import Chooser

        return Chooser(Start(folder, dtype, longest + 1, 0, False), _awake(place))  # its answer is one token

    return opened


def open_classifier(place: Place) -> OpenClassifier:
    """What opens a reward's model in vLLM, in this process and in fp32, or the reason why it cannot."""
    def opened(folder: Path, longest: int | None) -> ReadLogits | str:
        require("vllm")
        from rlfamily.rollout.vllm_engine import Scorer

        try:
            return Scorer(Start(folder, "fp32", longest, 0, world_size() > 1), _awake(place))
        except UserError as error:
            if UNKNOWN not in str(error):
                raise
            return str(error)

    return opened


def _awake(place: Place) -> VllmPlacement:
    """Frozen models sit beside the policy's engine, and stay awake."""
    return place.hardware.vllm.model_copy(update={"sleep": False})


def require(engine: str) -> None:
    """Raise UserError, saying what to install, when the engine is not there."""
    if engine == "vllm" and importlib.util.find_spec("vllm") is None:
        raise UserError(f"rollout.engine=vllm: the package vllm is not installed: {INSTALL}, or use "
                        "rollout.engine=torch")


def _torch(policy: Policy, place: Place) -> Engine:
    from rlfamily.rollout.torch_engine import TorchEngine

    return TorchEngine(policy, place.hardware.rollout_batch)


def _vllm(folder: Path, dtype: str, stop_ids: Sequence[int], policy: Policy | None, place: Place, limit: int) -> Engine:
    rank = policy.model.peft_config["default"].r if policy and policy.adapted else 0
    start = Start(folder, dtype, limit, rank, world_size() > 1)
    if place.hardware.vllm.mode == "colocated" or place.hardware.vllm.server_url is None:
        require("vllm")
    if place.hardware.vllm.mode == "server":
        from rlfamily.rollout.vllm_server import VllmServerEngine

        return VllmServerEngine(start, stop_ids, policy, place)
    from rlfamily.rollout.vllm_engine import VllmEngine

    return VllmEngine(start, place.hardware.vllm, stop_ids, policy, place.work)
