"""Published sequence classifiers as reward models: a text, or a pair of texts, to one of its logits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from rlfamily.errors import UserError
from rlfamily.models.loaded import Loaded
from rlfamily.models.policy import locate


class Classifier(Loaded):
    """A frozen classifier. It is never trained, so a training precision plays no part: fp32."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, device: torch.device) -> None:
        super().__init__(model.eval().requires_grad_(False), tokenizer, "fp32", device)
        # GPT-2 has no pad token. Its model finds the last real token as the last that is no pad, so any id that never
        # ends a text will do: EOS is such an id, as no convention here ends with it.
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        model.config.pad_token_id = tokenizer.pad_token_id
        tokenizer.padding_side = "right"

    @property
    def logits(self) -> int:
        """How many logits the model has."""
        return int(self.model.config.num_labels)

    def score(
        self, texts: Sequence[str], pairs: Sequence[str] | None, logit: int, max_tokens: int, micro_batch: int
    ) -> list[float]:
        """The raw logit of each text, or of each text with its pair, both cut to `max_tokens` together."""
        limit = min(max_tokens, self.tokenizer.model_max_length)
        values: list[float] = []
        with torch.no_grad():
            for start in range(0, len(texts), micro_batch):
                part = slice(start, start + micro_batch)
                inputs = self.tokenizer(
                    list(texts[part]), None if pairs is None else list(pairs[part]), truncation=True, max_length=limit,
                    padding=True, return_tensors="pt").to(self.device)
                values += self.model(**inputs).logits[:, logit].float().tolist()
        return values


def load(folder: Path, device: torch.device) -> Classifier:
    """Load a classifier from an artifact folder (safetensors only, no remote code). Raises UserError when it cannot."""
    source, options = locate(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        model = AutoModelForSequenceClassification.from_pretrained(
            source, dtype=torch.float32, use_safetensors=True, **options)
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: weights of other shapes than the config
        raise UserError(f"reward model: cannot load '{source}': {' '.join(str(error).split())[:300]}") from error
    return Classifier(model, tokenizer, device)
