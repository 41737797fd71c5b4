"""Reward models saved as a backbone with a scalar head and a bias of their own (vwxyzjn's TL;DR models).

Their configuration names no architecture that transformers knows, but holds that of the backbone. They become the
library's own classifier of that architecture: same backbone, same head; head and model have a bias, which it has not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase

from rlfamily.errors import UserError
from rlfamily.models.classifier import Classifier
from rlfamily.models.policy import locate

BACKBONE, HEAD = "lm_backbone.", "scalar_head."


class Scalar(Classifier):
    """A classifier whose score has an offset: the head's bias, less that of the model."""

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase, device: torch.device, offset: float) -> None:
        super().__init__(model, tokenizer, device)
        self.offset = offset

    def score(
        self, texts: Sequence[str], pairs: Sequence[str] | None, logit: int, max_tokens: int, micro_batch: int
    ) -> list[float]:
        """As `Classifier.score`."""
        return [score + self.offset for score in super().score(texts, pairs, logit, max_tokens, micro_batch)]


def is_scalar(folder: Path) -> bool:
    """True when an artifact folder holds such a model."""
    return "base_config" in _settings(_place(folder))


def load(folder: Path, device: torch.device) -> Scalar:
    """Load one from an artifact folder (safetensors only, no remote code). Raises UserError when it cannot."""
    place = _place(folder)
    settings = _settings(place)
    base: dict[str, Any] = settings["base_config"]
    try:
        config = AutoConfig.for_model(**base)
        config.num_labels = 1
        model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
        weights = {name: tensor for file in sorted(place.glob("*.safetensors"))
                   for name, tensor in load_file(file).items()}
        backbone = {name.removeprefix(BACKBONE): tensor for name, tensor in weights.items() if BACKBONE in name}
        missing = model.base_model.load_state_dict(backbone, strict=False).missing_keys
        head = next(module for name, module in model.named_modules() if name in ("score", "classifier"))
        head.weight.data.copy_(weights[f"{HEAD}weight"])
        offset = float(weights[f"{HEAD}bias"]) - float(settings.get("bias", 0.0))
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"reward model: cannot load '{place}': {' '.join(str(error).split())[:300]}") from error
    if missing:
        raise UserError(f"reward model: '{place}' lacks the weights {missing[0]}: give a whole model")
    return Scalar(model, tokenizer, device, offset)


def _place(folder: Path) -> Path:
    """The files of the model that an artifact folder points to."""
    source, options = locate(folder)
    if Path(source).is_dir():
        return Path(source)
    return Path(snapshot_download(source, revision=options.get("revision"), local_files_only=True))


def _settings(place: Path) -> dict[str, Any]:
    file = place / "config.json"
    return json.loads(file.read_text("utf-8")) if file.exists() else {}
