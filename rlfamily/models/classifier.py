"""Published sequence classifiers as reward models: a text, or a pair of texts, to one of its logits.

`Classifier` runs in transformers. `Pooled` has only the tokenizer here; vLLM, which it is given, has the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from rlfamily.errors import UserError
from rlfamily.models.batching import Rows
from rlfamily.models.loaded import Loaded
from rlfamily.models.policy import locate
from rlfamily.models.reward_model import read_bias
from rlfamily.models.tokens import raw_ids


class Classifier(Loaded):
    """A frozen classifier. It is never trained, so a training precision plays no part: fp32."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, device: torch.device) -> None:
        super().__init__(model.eval().requires_grad_(False), tokenizer, "fp32", device)
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
                self._fill(inputs)
                values += self.model(**inputs).logits[:, logit].float().tolist()
        return values

    def _fill(self, inputs: Any) -> None:
        """Let pads be ids that no text holds, where a pad is an EOS.

        Decoders with a head read the last token that is no pad: the text's own EOS would be taken for one.
        """
        if self.tokenizer.pad_token_id != self.tokenizer.eos_token_id:
            return
        ids_NL, mask_NL = inputs["input_ids"], inputs["attention_mask"].bool()
        held = set(ids_NL[mask_NL].tolist())
        unheld = next((number for number in range(int(self.model.config.vocab_size)) if number not in held), None)
        if unheld is not None:
            inputs["input_ids"] = ids_NL.masked_fill(~mask_NL, unheld)
            self.model.config.pad_token_id = unheld


Arranged = Callable[[Sequence[str], Sequence[str]], tuple[list[str], list[str] | None]]
"""Contexts and responses to texts, and the texts they are paired with."""


@dataclass(frozen=True)
class Pooled:
    """A classifier that runs elsewhere: `pool` takes rows of token ids to logits. `bias` is that of a `RewardModel`."""

    tokenizer: PreTrainedTokenizerBase
    pool: Callable[[Sequence[Sequence[int]]], list[list[float]]]
    logits: int
    bias: float

    def score(
        self, texts: Sequence[str], pairs: Sequence[str] | None, logit: int, max_tokens: int, micro_batch: int
    ) -> list[float]:
        """As `Classifier.score`; how many rows go together is the other side's business."""
        rows = self.tokenizer(list(texts), None if pairs is None else list(pairs), truncation=True,
                              max_length=min(max_tokens, self.tokenizer.model_max_length))["input_ids"]
        return [logits[logit] for logits in self.pool(rows)]

    def score_rows(self, rows: Rows, micro_batch: int) -> list[float]:
        """As `RewardModel.score_rows`."""
        joined = [[*prompt, *response] for prompt, response in zip(rows.prompts, rows.completions, strict=True)]
        return [logits[0] for logits in self.pool(joined)]


def fitted_texts(
    tokenizer: PreTrainedTokenizerBase, arranged: Arranged, contexts: Sequence[str], responses: Sequence[str],
    limit: int,
) -> tuple[list[str], list[str], list[bool]]:
    """Contexts and responses that `arranged` puts into `limit` tokens at most, and which had to be shortened for that.

    A context loses its beginning; when nothing of it is left, the response loses its own. Ends are kept.
    """
    kept, shortened = list(contexts), list(responses)
    over = [length - limit for length in _lengths(tokenizer, *arranged(kept, shortened))]
    cut = [excess > 0 for excess in over]
    for row, excess in enumerate(over):
        while excess > 0 and (kept[row] or shortened[row]):
            which = kept if kept[row] else shortened
            which[row] = _without_beginning(tokenizer, which[row], excess)
            excess = _lengths(tokenizer, *arranged([kept[row]], [shortened[row]]))[0] - limit
    return kept, shortened, cut


def _lengths(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], pairs: Sequence[str] | None) -> list[int]:
    return [len(ids) for ids in tokenizer(list(texts), None if pairs is None else list(pairs))["input_ids"]]


def _without_beginning(tokenizer: PreTrainedTokenizerBase, text: str, tokens: int) -> str:
    """The text without its first tokens, at least one; empty when it has no more."""
    if not tokenizer.is_fast:
        shorter = str(tokenizer.decode(raw_ids(tokenizer, text)[tokens:]))
        return shorter if len(shorter) < len(text) else ""
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    # several tokens may stand for one character: the cut falls behind it
    return text[next((start for start, _ in offsets[tokens:] if start > 0), len(text)):]


def load_pooled(
    folder: Path, trained_here: bool, pool: Callable[[Path, int | None], Any], longest: int | None
) -> Pooled | str:
    """The classifier in `folder` with what `pool` opens; text when it gives a reason instead, or would misread it.

    Raises UserError when the folder holds none.
    """
    source, options = locate(folder)
    bias = read_bias(folder) if trained_here else 0.0
    try:
        config = AutoConfig.from_pretrained(source, **options)
        tokenizers = PreTrainedTokenizerFast if trained_here else AutoTokenizer
        tokenizer = tokenizers.from_pretrained(source, **options)
    except (OSError, ValueError) as error:
        raise UserError(f"reward model: cannot load '{source}': {' '.join(str(error).split())[:300]}") from error
    if getattr(config, "type_vocab_size", 0) > 1:
        return "it tells a text from its pair by token types, which are not passed on"
    found = pool(folder, longest and min(longest, tokenizer.model_max_length))
    return found if isinstance(found, str) else Pooled(tokenizer, found, 1 if trained_here else config.num_labels, bias)


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
