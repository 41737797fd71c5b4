"""A value function: a backbone with a scalar head at every state of a response, V(prompt + prefix).

    model       a causal language model whose output layer is the head: a vocabulary of one, whose logit is V. All that
                lays out a policy's rows, in update and in decoding, lays out its rows
    classifier  the same weights as the hub stores them: a reward model is a value function read at the end alone, so
                that either starts from the other

V is in units of the reward as a reward model gives it: head . state - bias. The bias stays as it was at the start.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rlfamily import core
from rlfamily.errors import UserError
from rlfamily.models import scalar
from rlfamily.models.batching import Forward, Rows, RowTensors, pad
from rlfamily.models.layouts import layout_of
from rlfamily.models.layouts.declared import positions
from rlfamily.models.layouts.packed import PackedLayout
from rlfamily.models.loaded import Loaded
from rlfamily.models.policy import load_tokenizer, locate
from rlfamily.models.reward_model import BIAS
from rlfamily.models.sharded import is_sharded, kept

CLOSE = 1e-3
"""Largest difference between a model's logit and its head's number, as a share of what a state may have."""

PROBE = (3, 9, 5, 8, 4)


class Head(nn.Linear):
    """w . state - bias, in fp32 whatever the states are: bf16 would round values to three digits."""

    def __init__(self, weight: nn.Parameter, bias: float) -> None:
        super().__init__(weight.shape[1], 1, device="meta")
        self.weight = weight
        self.bias = nn.Parameter(torch.tensor([-bias], device=weight.device), requires_grad=False)

    def forward(self, states: Tensor) -> Tensor:
        """V of each state, behind its axes one of size 1."""
        with torch.autocast(states.device.type, enabled=False):
            return super().forward(states.float())


class ValueFunction(Loaded):
    """`evaluate` gives V of every state of rows, `score_rows` of their ends; `save` writes a loadable folder."""

    def __init__(
        self, classifier: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dtype: str, device: torch.device,
        bias: float,
    ) -> None:
        super().__init__(_causal(classifier, bias), tokenizer, dtype, device)
        self.classifier, self.bias = classifier, bias
        self._require_plain_head()
        self.layout = layout_of(self)
        self.positions = positions(self.model.config, added=0)

    def evaluate(self, rows: RowTensors, temperature: float) -> Forward:
        """values_NS of the rows: V at h = 0..length, before each token and behind the last, 0 on pads.

        `temperature` plays no part. Raises UserError for a row beyond the model's positions.
        """
        states = _with_one_more(rows).to(self.device)
        self._check(states)
        with self.autocast():
            values_C = self.layout.at_tokens(self.layout.logits(self.model, states), states).squeeze(-1).float()
        values_NS = values_C.new_zeros(states.mask_NT.shape).masked_scatter(states.mask_NT > 0, values_C)
        return Forward(torch.zeros_like(values_NS[:, 0]), values_NS=values_NS)

    def score_states(self, rows: Rows, micro_tokens: int) -> list[list[float]]:
        """V of every state of each row, `micro_tokens` tokens a pass: its prompt's first, the whole row's last."""
        if not len(rows):
            return []
        tensors, found = pad(rows, self.pad_id), []
        with torch.no_grad():
            for span in self.layout.cut(tensors, micro_tokens, 0, len(rows)):
                found += self.evaluate(tensors[span], 1.0).leaves()["values_NS"].tolist()
        return [values[:len(ids) + 1] for values, ids in zip(found, rows.completions, strict=True)]

    def score_rows(self, rows: Rows, micro_tokens: int) -> list[float]:
        """V at the end of each row: of a prefix, or of a complete response."""
        return [values[-1] for values in self.score_states(rows, micro_tokens)]

    def save(self, folder: Path) -> None:
        """Write weights, tokenizer and bias as a reward model does.

        Collective when the weights are sharded: every process must call it, the first one writes.
        """
        classifier = self._gathered() if any(map(is_sharded, self.model.parameters())) else self.classifier
        if classifier is None:
            return
        classifier.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        (folder / BIAS).write_text(json.dumps({"bias": self.bias}))

    def _gathered(self) -> PreTrainedModel | None:
        """The classifier in main memory with the whole weights; None in all but the first process."""
        backbone = f"{self.model.base_model_prefix}."
        weights = {name: kept(weight) for name, weight in self.model.state_dict().items() if name.startswith(backbone)}
        weights["score.weight"] = kept(self.model.get_output_embeddings().weight.detach())
        if torch.distributed.get_rank() != 0:
            return None
        with torch.device("meta"):  # the structure without memory: the weights are there already
            whole: PreTrainedModel = type(self.classifier)(self.classifier.config)
        whole.load_state_dict(weights, assign=True)
        return whole

    def _check(self, states: RowTensors) -> None:
        if not states.prompt_mask_NP.shape[1] or not states.prompt_mask_NP[:, -1].all():
            raise UserError("value function: a prompt has no tokens: give every example a text, or leave it out")
        # only a packed pass leaves out the token that nothing is read of
        spared = int(isinstance(self.layout, PackedLayout))
        longest = int((states.prompt_mask_NP.sum(1) + states.mask_NT.sum(1)).max()) - spared
        if self.positions is not None and longest > self.positions:
            name = type(self.model).__name__
            raise UserError(f"value function: a row takes {longest} positions, and {name} has room for "
                            f"{self.positions}: lower max_tokens, or use another model")

    @torch.no_grad()
    def _require_plain_head(self) -> None:
        """Raise UserError where the model makes something else of its head's number: a cap, a scale."""
        size = int(self.model.get_input_embeddings().weight.shape[0])
        ids_1L = torch.tensor([[token % size for token in PROBE]], device=self.device)
        states = self.model.base_model(input_ids=ids_1L).last_hidden_state
        wanted = self.model.get_output_embeddings()(states)
        found = self.model(input_ids=ids_1L).logits
        scale = float(wanted.abs().max()) + 1
        if found.shape != wanted.shape or float((found.float() - wanted).abs().max()) > CLOSE * scale:
            raise UserError(f"value function: {type(self.model).__name__} changes what its output layer gives, so that "
                            "it has no plain value: use another model")


def load(
    folder: Path, dtype: str, device: torch.device, trainable: bool, seed: int | None = None
) -> ValueFunction:
    """Load a value function, a reward model or a classifier of one label from the hub; all their heads are kept.

    A causal language model gets a fresh head, N(0, 1/sqrt(hidden+1)) from `seed`; with None it is refused. It is
    trained whole. Raises UserError when the folder holds nothing of these.
    """
    if scalar.is_scalar(folder):
        found = scalar.load(folder, device)
        found.model.eval().requires_grad_(trainable)
        return ValueFunction(found.model, found.tokenizer, dtype, device, -found.offset)
    source, options = locate(folder)
    tokenizer = load_tokenizer(folder)
    try:
        config = AutoConfig.from_pretrained(source, **options)
        headless = _headless(config, source)
        if headless and seed is None:
            raise UserError(f"value function: '{source}' is a language model without a value head: train one first")
        classifier = AutoModelForSequenceClassification.from_pretrained(
            source, num_labels=1, dtype=torch.float32, use_safetensors=True, **options)
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: weights of other shapes than the config
        raise UserError(f"value function: cannot load '{source}': {' '.join(str(error).split())[:300]}") from error
    head = getattr(classifier, "score", None)
    if not isinstance(head, nn.Linear) or head.bias is not None:
        raise UserError(f"value function: {type(classifier).__name__} has no linear head that every state can go "
                        "through: start from a causal model")
    if headless and seed is not None:
        nn.init.normal_(head.weight, std=1 / math.sqrt(head.in_features + 1),
                        generator=torch.Generator().manual_seed(seed))
    bias_file = folder / BIAS
    bias = float(json.loads(bias_file.read_text("utf-8"))["bias"]) if bias_file.exists() else 0.0
    classifier.eval().requires_grad_(trainable)  # for good: a value must not depend on dropout
    return ValueFunction(classifier, tokenizer, dtype, device, bias)


def _headless(config: PreTrainedConfig, source: str) -> bool:
    """Whether it is a language model. Raises UserError for what can be no start."""
    if config.is_encoder_decoder:
        raise UserError(f"value function: '{source}' reads prompts and responses apart: use a causal model")
    classifies = any(name.endswith("ForSequenceClassification") for name in config.architectures or [])
    if classifies and config.num_labels != 1:
        raise UserError(f"value function: '{source}' has {config.num_labels} labels, and a value is one number: use a "
                        "model with one")
    return not classifies


def _causal(classifier: PreTrainedModel, bias: float) -> PreTrainedModel:
    """The classifier's backbone and head as a causal language model; no weight is allocated or copied for it."""
    try:
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(classifier.config)
    except ValueError as error:
        raise UserError(f"value function: {type(classifier).__name__} has no causal form: use another model") from error
    name = model.base_model_prefix
    if type(getattr(model, name, None)) is not type(classifier.base_model):
        raise UserError(f"value function: {type(classifier).__name__} and {type(model).__name__} are not made of the "
                        "same backbone: use another model")
    setattr(model, name, classifier.base_model)
    model.set_output_embeddings(Head(classifier.score.weight, bias))
    left = [key for key, weight in [*model.named_parameters(), *model.named_buffers()] if weight.is_meta]
    if left:
        raise UserError(f"value function: {type(model).__name__} has weights beside its backbone and its output layer "
                        f"({left[0]}): use another model")
    found: PreTrainedModel = model.eval()
    return found


def _with_one_more(rows: RowTensors) -> RowTensors:
    """Every completion with a token behind it: each token's state is what comes before it, so that this one's is all.

    Which token does not matter: nothing is read of it.
    """
    return replace(rows, ids_NT=nn.functional.pad(rows.ids_NT, (0, 1)), mask_NT=core.states_of(rows.mask_NT))
