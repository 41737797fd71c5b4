"""Values: what a critic says of the state before each token, or of a prompt; on the policy's own states, or apart.

    head      linear, w . state + b, or with a hidden layer, w . tanh(W state) + b; at first every value is 0
    state     of a token: what it is predicted from. Of a prompt: the mean of the encoder's states, or, where there is
              no encoder, what its response's first token is predicted from
    network   None: the states of the policy's own pass. Else a copy of the policy as it was at first, trained beside
              it: of its encoder alone where nothing else is read
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlfamily.errors import UserError
from rlfamily.models.batching import RowTensors
from rlfamily.models.layouts import Layout
from rlfamily.models.layouts.encoder_decoder import encoder_inputs
from rlfamily.models.layouts.shared_prefix import new_prompts
from rlfamily.models.layouts.single import SingleLayout
from rlfamily.models.sharded import is_sharded

ValueOf = Literal["token", "prompt"]


class States:
    """Inside, every pass of a language model leaves its states: those that logits are made of, and its encoder's."""

    def __init__(self, model: PreTrainedModel, layout: Layout) -> None:
        self.model, self.layout = model, layout
        self.tokens: list[Tensor] = []
        self.encoded: list[Tensor] = []  # means (B, D), of all prompts of a pass

    def __enter__(self) -> Self:
        output = self.model.get_output_embeddings()
        self.hooks = [output.register_forward_pre_hook(lambda _, inputs: self.tokens.append(inputs[0]))]
        if self.model.config.is_encoder_decoder:
            self.hooks.append(self.model.get_encoder().register_forward_hook(self._encoded, with_kwargs=True))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def at_tokens(self, rows: RowTensors) -> Tensor:
        """(C, D): what each of the rows' real tokens is predicted from."""
        return self.layout.at_tokens(self.tokens, rows)

    def at_prompts(self, rows: RowTensors) -> Tensor:
        """(N, D): the state of each row's prompt. Raises UserError where a row without a token has none."""
        if self.encoded:
            return _each_row(torch.cat(self.encoded), rows)
        counts_N = rows.mask_NT.sum(1).long()
        if not counts_N.all():
            raise UserError("model: a response has no token, so that nothing says what its prompt is worth: give it "
                            "its end, or leave it out")
        return self.at_tokens(rows)[counts_N.cumsum(0) - counts_N]

    def _encoded(self, module: nn.Module, inputs: Any, named: dict[str, Any], output: Any) -> None:
        self.encoded.append(_mean(output[0], named.get("attention_mask")))


@dataclass
class Critic:
    """A head of V, and the network whose states it reads where that is not the policy."""

    head: nn.Module
    of: ValueOf
    network: PreTrainedModel | None

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The head's, then the network's."""
        for prefix, module in (("value_head", self.head), ("critic", self.network)):
            for name, weight in module.named_parameters() if module is not None else ():
                yield f"{prefix}.{name}", weight

    def states(self, rows: RowTensors, own: States) -> Tensor:
        """(C, D) of the rows' tokens, or (N, D) of their prompts; `own` are those that the policy left."""
        if self.network is None:
            return own.at_tokens(rows) if self.of == "token" else own.at_prompts(rows)
        if self.of == "token":
            return self._passed(rows, own.layout)
        prompts = rows[new_prompts(rows)]
        if self.network.config.is_encoder_decoder:
            parts = [prompts]
            if isinstance(own.layout, SingleLayout):
                parts = [prompts[place:place + 1] for place in range(len(prompts))]
            return _each_row(torch.cat([self._read(part, own.layout) for part in parts]), rows)
        first_B1 = torch.ones_like(prompts.ids_NT[:, :1])  # any token: what it is predicted from has not seen it
        return _each_row(self._passed(replace(prompts, ids_NT=first_B1, mask_NT=first_B1.float()), own.layout), rows)

    def _passed(self, rows: RowTensors, layout: Layout) -> Tensor:
        with States(self.network, layout) as states:
            layout.logits(self.network, rows)
        return states.at_tokens(rows)

    def _read(self, prompts: RowTensors, layout: Layout) -> Tensor:
        assert self.network is not None
        read = encoder_inputs(prompts, layout.ends)
        return _mean(self.network(**read)[0], read["attention_mask"])


def critic_on(
    model: PreTrainedModel, of: ValueOf, apart: bool, width: int | None, seed: int | None, device: torch.device
) -> Critic:
    """A critic on a policy's model; see `Policy.add_value_head`."""
    if apart and any(map(is_sharded, model.parameters())):
        raise UserError("hardware.sharding=fsdp splits no value network that is apart from the policy: use "
                        "hardware.sharding=none, or values on the policy's own states")
    encoded = of == "prompt" and model.config.is_encoder_decoder
    size = model.get_encoder().config.hidden_size if encoded else model.get_output_embeddings().in_features
    network = _copied(model, encoded) if apart else None
    return Critic(_head(size, width, seed).to(device), of, network)


def _copied(model: PreTrainedModel, encoder_alone: bool) -> PreTrainedModel:
    """The model, or its encoder, without adapters and with every weight trained."""
    copied = copy.deepcopy(model)
    if hasattr(copied, "peft_config"):
        copied = copied.unload()
    if encoder_alone:
        copied = copied.get_encoder()
    else:
        copied.set_output_embeddings(_Unread(copied.get_output_embeddings().out_features))
    network: PreTrainedModel = copied.requires_grad_(True).eval()
    return network


class _Unread(nn.Module):
    """An output layer that computes nothing: only its input is read."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden.new_zeros(()).expand(*hidden.shape[:-1], self.size)


def _head(size: int, width: int | None, seed: int | None) -> nn.Module:
    last = nn.Linear(width or size, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    if width is None:
        return last
    assert seed is not None
    first = nn.Linear(size, width, bias=False)
    nn.init.uniform_(first.weight, -size ** -0.5, size ** -0.5, generator=torch.Generator().manual_seed(seed))
    return nn.Sequential(first, nn.Tanh(), last)


def _mean(states_BPD: Tensor, mask_BP: Tensor | None) -> Tensor:
    """(B, D): the mean over real tokens, of which all are without a mask."""
    if mask_BP is None:
        return states_BPD.float().mean(1)
    real_BP1 = mask_BP[:, :, None].float()
    return (states_BPD.float() * real_BP1).sum(1) / real_BP1.sum(1)


def _each_row(states_BD: Tensor, rows: RowTensors) -> Tensor:
    """(N, D) of what each row has, or each distinct prompt."""
    return states_BD if len(states_BD) == len(rows) else states_BD[new_prompts(rows).cumsum(0) - 1]
