"""A policy: a causal language model with its tokenizer, its precision and, if asked, its adapters."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from rlfamily import core
from rlfamily.errors import UserError
from rlfamily.models import Finetuning, Lora
from rlfamily.models.batching import Forward, Padded
from rlfamily.models.loaded import Loaded

# Besides cluttering logs, the bars share one lock between forked processes: a worker killed while it holds the lock
# would leave every later worker waiting for it.
transformers_logging.disable_progress_bar()

POINTER = "pointer.json"


class Policy(Loaded):
    """Model and tokenizer on a device. `evaluate` gives completion log-probs; `save` writes a loadable folder."""

    token_level = True

    def logits(self, rows: Padded) -> Tensor:
        """logits_NTV of each completion token: positions P-1 .. P+T-2 of the sequence."""
        width = rows.mask_NT.shape[1]
        with self.autocast():
            output = self.model(
                input_ids=rows.ids_NL.to(self.device),
                attention_mask=rows.attention_NL.to(self.device),
                position_ids=rows.positions_NL.to(self.device),
                logits_to_keep=width + 1,
                use_cache=False,
            )
        return output.logits[:, :-1]

    def evaluate(self, rows: Padded, temperature: float) -> Forward:
        """Completion log-probs (with gradient, fp32, 0 on pads) and the mean token entropy of each row."""
        logits_NTV = self.logits(rows)
        mask_NT = rows.mask_NT.to(self.device)
        logp_NT = core.token_logprobs(logits_NTV, rows.completion_ids_NT.to(self.device), mask_NT, temperature)
        with torch.no_grad():
            entropy_NT = core.token_entropies(logits_NTV, mask_NT, temperature)
        return Forward(logp_NT, entropy_NT.sum(1) / mask_NT.sum(1).clamp(min=1))

    @contextlib.contextmanager
    def initial(self) -> Iterator[None]:
        """Inside, an adapted model behaves as the model it was adapted from."""
        with self.model.disable_adapter():
            yield

    @property
    def adapted(self) -> bool:
        """True when training changes adapters only."""
        return hasattr(self.model, "disable_adapter")

    def save(self, folder: Path) -> None:
        """Write weights (adapters merged) and tokenizer in the hub's own format; the policy itself stays as it is."""
        # Merging destroys the adapters, so a copy is merged.
        model = copy.deepcopy(self.model).merge_and_unload() if self.adapted else self.model
        model.save_pretrained(folder, safe_serialization=True)
        self.tokenizer.save_pretrained(folder)


def load(folder: Path, finetuning: Finetuning, device: torch.device, trainable: bool) -> Policy:
    """Load a policy from an artifact folder. Raises UserError when the folder holds no loadable model."""
    source, options = locate(folder)
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(source, **options)
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.float32, use_safetensors=True, **options)
    except (OSError, ValueError) as error:
        raise UserError(f"model: cannot load '{source}': {' '.join(str(error).split())[:300]}") from error
    adapted = trainable and finetuning.finetune == "lora"
    policy = Policy(_adapt(model, finetuning.lora) if adapted else model, tokenizer, finetuning.dtype, device)
    if not adapted:
        policy.model.requires_grad_(trainable)
    policy.model.eval()  # for good: a log-prob must not depend on dropout
    return policy


def locate(folder: Path) -> tuple[str, dict[str, Any]]:
    """Where the weights are: the folder itself, or what its pointer file names (hub id and resolved revision)."""
    pointer = folder / POINTER
    if not pointer.exists():
        return str(folder), {"trust_remote_code": False}
    content = json.loads(pointer.read_text())
    return content["path"], {"revision": content["revision"], "trust_remote_code": False}


def _adapt(model: PreTrainedModel, lora: Lora) -> PreTrainedModel:
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules=lora.targets,
        task_type="CAUSAL_LM"))
