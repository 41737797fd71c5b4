"""A Bradley-Terry reward model: a policy's backbone with a scalar head read at the last real token."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from rlfamily.errors import UserError
from rlfamily.examples import Example
from rlfamily.models import Finetuning
from rlfamily.models.batching import Forward, Rows, RowTensors, Tokens, pad
from rlfamily.models.layouts import Layout, padded
from rlfamily.models.loaded import Loaded
from rlfamily.models.policy import locate
from rlfamily.models.tokens import encode_example, prompt_ids, raw_ids

BIAS = "reward_bias.json"


class RewardModel(Loaded):
    """Scores whole responses. `bias` is the mean score of reference responses, subtracted when scoring."""

    layout: Layout = padded.PaddedLayout()

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dtype: str, device: torch.device, bias: float
    ) -> None:
        super().__init__(model, tokenizer, dtype, device)
        self.bias = bias

    def evaluate(self, rows: RowTensors, temperature: float) -> Forward:
        """scores_N of the rows, before the bias. `temperature` plays no part."""
        with self.autocast():
            last_ND = padded.last_states(self.model.base_model, rows.to(self.device))
            scores_N = self.model.score(last_ND).squeeze(-1).float()
        return Forward(torch.zeros_like(scores_N), scores_N=scores_N)

    @property
    def logits(self) -> int:
        """How many logits the model has."""
        return 1

    def score_texts(
        self, prompts: Sequence[str], responses: Sequence[str], micro_batch: int, truncated: Sequence[bool] = ()
    ) -> list[float]:
        """Score of each response to a plain prompt, bias subtracted; read as `response_ids` says, as in training."""
        rows = encode_texts(self.tokenizer, prompts, responses, truncated)
        return [score - self.bias for score in self.score_rows(rows, micro_batch)]

    def score_examples(
        self, examples: Sequence[Example], responses: Sequence[str], truncated: Sequence[bool], micro_batch: int
    ) -> list[float]:
        """As `score_texts`, each prompt in the form that the policy is given it in: a chat through its template."""
        rows = Rows([encode_example(self.tokenizer, example) for example in examples],
                    response_ids(self.tokenizer, responses, truncated))
        return [score - self.bias for score in self.score_rows(rows, micro_batch)]

    def score_rows(self, rows: Rows, micro_batch: int) -> list[float]:
        """Score of each row of token ids, before the bias, `micro_batch` rows a pass."""
        scores: list[float] = []
        with torch.no_grad():
            for start in range(0, len(rows), micro_batch):
                part = slice(start, start + micro_batch)
                tensors = pad(Rows(rows.prompts[part], rows.completions[part]), self.pad_id)
                scores += self.evaluate(tensors, 1.0).leaves()["scores_N"].tolist()
        return scores

    def save(self, folder: Path) -> None:
        """Write weights, tokenizer and bias in the hub's own format."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        (folder / BIAS).write_text(json.dumps({"bias": self.bias}))


def encode_texts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], responses: Sequence[str], truncated: Sequence[bool] = ()
) -> Rows:
    """Token ids of plain prompts, and of responses."""
    return Rows([prompt_ids(tokenizer, text) for text in prompts], response_ids(tokenizer, responses, truncated))


def response_ids(
    tokenizer: PreTrainedTokenizerBase, responses: Sequence[str], truncated: Sequence[bool] = ()
) -> list[list[int]]:
    """Token ids of responses with their end token, which those that a limit cut short never had."""
    end = int(tokenizer.eos_token_id)
    return [raw_ids(tokenizer, text) + ([] if cut else [end])
            for text, cut in zip(responses, truncated or [False] * len(responses), strict=True)]


def fitted(prompt: Tokens, completions: Sequence[Tokens], limit: int) -> tuple[Rows, bool]:
    """A prompt with each completion in `limit` tokens at most, and whether anything had to go for that.

    The prompt loses its beginning, the same for all, down to one token; then completions lose theirs. An end is kept.
    """
    prompt_kept = prompt[-max(1, limit - max(map(len, completions))):]
    room = max(1, limit - len(prompt_kept))
    rows = Rows([prompt_kept] * len(completions), [ids[-room:] for ids in completions])
    return rows, len(prompt) + max(map(len, completions)) > limit


def read_bias(folder: Path) -> float:
    """What a model trained here subtracts from its scores. Raises UserError when it was not trained here."""
    if not (folder / BIAS).exists():
        raise UserError(f"reward model: {folder} has no {BIAS}, so it was not trained here: "
                        "give the convention of a published model in task.reward.components")
    return float(json.loads((folder / BIAS).read_text("utf-8"))["bias"])


def start(backbone: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, device: torch.device) -> RewardModel:
    """A trainable fp32 reward model on the weights of a causal model, with a fresh head: N(0, 1/sqrt(hidden+1))."""
    config = copy.deepcopy(backbone.config)
    config.num_labels = 1
    model = AutoModelForSequenceClassification.from_config(config)
    model.base_model.load_state_dict(backbone.base_model.state_dict())
    _draw_head(model)
    return RewardModel(model.eval(), tokenizer, "fp32", device, 0.0)


def load(folder: Path, finetuning: Finetuning, device: torch.device, trainable: bool) -> RewardModel:
    """Load a reward model, or start one from a policy's folder with a fresh head: N(0, 1/sqrt(hidden+1)), no bias.

    It is trained whole, whatever `finetuning.finetune` says of policies.
    Raises UserError when the folder holds no loadable model.
    """
    return _load(folder, finetuning.dtype, device, trainable)


def load_trained(folder: Path, device: torch.device) -> RewardModel:
    """Load a frozen reward model in fp32. Raises UserError when the folder holds none that was trained here."""
    read_bias(folder)
    return _load(folder, "fp32", device, trainable=False)


def _load(folder: Path, dtype: str, device: torch.device, trainable: bool) -> RewardModel:
    source, options = locate(folder)
    try:
        config = AutoConfig.from_pretrained(source, **options)
        if config.is_encoder_decoder:
            raise UserError(f"reward model: '{source}' reads prompts and responses apart: start from a causal model")
        tokenizer = PreTrainedTokenizerFast.from_pretrained(source, **options)
        model = AutoModelForSequenceClassification.from_pretrained(
            source, num_labels=1, dtype=torch.float32, use_safetensors=True, **options)
    except (OSError, ValueError) as error:
        raise UserError(f"reward model: cannot load '{source}': {' '.join(str(error).split())[:300]}") from error
    bias_file = folder / BIAS
    trained = bias_file.exists()
    if not trained:
        _draw_head(model)
    model.eval().requires_grad_(trainable)
    bias = json.loads(bias_file.read_text("utf-8"))["bias"] if trained else 0.0
    return RewardModel(model, tokenizer, dtype, device, bias)


def _draw_head(model: PreTrainedModel) -> None:
    nn.init.normal_(model.score.weight, std=1 / math.sqrt(model.config.hidden_size + 1))
