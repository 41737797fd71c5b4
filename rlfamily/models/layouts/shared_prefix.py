"""Each distinct prompt once: rows that share a prompt are laid end to end behind it, without padding.

    [prompt 1][prompt 2] ... [row 1 of prompt 1][row 2 of prompt 1] ... [row 1 of prompt 2] ...

Everything but attention works on single tokens and sees one long row. Attention is ours, registered with transformers:
a prompt attends to itself, a completion to its prompt and to itself. Outputs and gradients are those of padded rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rlfamily.models.batching import RowTensors
from rlfamily.models.layouts.declared import is_plain
from rlfamily.models.layouts.prefix_attention import PrefixAttention, masked_attention
from rlfamily.models.layouts.ragged import Ragged

NAME = "shared_prefix"
IN_PARTS = frozenset({"cpu"})  # kinds of device with the kernels of PrefixAttention
NO_MASK = torch.empty(0, 0, 0, 0)  # given a mask with four axes, transformers builds none


class Attention(Protocol):
    """What a forward pass does in place of plain attention."""

    def attend(self, layer: int, query_MHD: Tensor, key_MHD: Tensor, value_MHD: Tensor, scale: float) -> Tensor:
        """The output (M, H, D) at M tokens; keys and values may have fewer heads than queries."""
        ...


def enable(model: PreTrainedModel) -> bool:
    """Make `model` take an `Attention`; False, and nothing changed, when its own differs from the plain one.

    Rows given without one go through the attention that transformers chose before.
    """
    config = model.config
    backend = getattr(model, "_supports_attention_backend", False) and config._attn_implementation == "sdpa"
    if not (backend and is_plain(config)):
        return False
    model.set_attn_implementation(NAME)
    return True


def disable(model: PreTrainedModel) -> None:
    """Give `model` back the attention that it had."""
    model.set_attn_implementation("sdpa")


def _forward(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float | None = None,
    shared: Attention | None = None, **options: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls; all with shapes (1, H, M, D), its output (1, M, H, D)."""
    if shared is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    query_MHD, key_MHD = (states[0].transpose(0, 1).to(value.dtype) for states in (query, key))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return shared.attend(module.layer_idx, query_MHD, key_MHD, value[0].transpose(0, 1), scale)[None], None


AttentionInterface.register(NAME, _forward)
AttentionMaskInterface.register(NAME, sdpa_mask)


@dataclass
class Packed:
    """N rows packed into M input tokens, the completions' last ones left out: nothing is predicted from them.

    `before_C` is where each of the C completion tokens is predicted from, row by row; `prompt_N` is each row's prompt;
    `together` has the completions of a prompt as one sequence. `prompt_states` gathers keys and values of the prompts,
    a pair (B, H, P, D) a layer, when it is a list.
    """

    ids_M: Tensor
    positions_M: Tensor
    before_C: Tensor
    prompt_N: Tensor
    prompts: Ragged
    completions: Ragged
    together: Ragged
    prompt_states: list[tuple[Tensor, Tensor]] | None = None

    def attend(self, layer: int, query_MHD: Tensor, key_MHD: Tensor, value_MHD: Tensor, scale: float) -> Tensor:
        """Causal attention of every prompt to itself, and of every completion to its prompt and itself."""
        repeats = query_MHD.shape[1] // key_MHD.shape[1]
        if self.prompt_states is not None:
            prompts = slice(self.prompts.tokens)
            self.prompt_states.append((self.prompts.grid(key_MHD[prompts]), self.prompts.grid(value_MHD[prompts])))
        if repeats > 1:
            key_MHD, value_MHD = key_MHD.repeat_interleave(repeats, 1), value_MHD.repeat_interleave(repeats, 1)
        split = [self.prompts.tokens, self.completions.tokens]
        (query, tail_query), (key, tail_key), (value, tail_value) = (
            torch.split(states, split) for states in (query_MHD, key_MHD, value_MHD))
        prefix = self.prompts.grid(key), self.prompts.grid(value)
        prompt_BHPD = scaled_dot_product_attention(self.prompts.grid(query), *prefix, is_causal=True, scale=scale)
        if not self.completions.tokens:
            return self.prompts.flat(prompt_BHPD)
        tail = tail_query, tail_key, tail_value, *prefix, self.completions
        if query_MHD.device.type in IN_PARTS:
            tail_MHD = PrefixAttention.apply(*tail, self.together, self.prompts.bias, scale)  # type: ignore[no-untyped-call]
        else:
            tail_MHD = masked_attention(*tail, self.prompts, self.prompt_N, scale)
        return torch.cat([self.prompts.flat(prompt_BHPD), tail_MHD])


def new_prompts(rows: RowTensors) -> Tensor:
    """new_N: True where a row's prompt is not that of the row before it."""
    same_N = torch.stack([(part[1:] == part[:-1]).all(1) for part in (rows.prompt_ids_NP, rows.prompt_mask_NP)]).all(0)
    return torch.cat([same_N.new_ones(1), ~same_N])


def pack(rows: RowTensors) -> Packed:
    """Pack rows; those with the same prompt that stand side by side share it."""
    first_N = new_prompts(rows)
    group_N = first_N.cumsum(0) - 1
    real_BP = rows.prompt_mask_NP[first_N] > 0
    prompts = Ragged(real_BP.sum(1))
    lengths_N = rows.mask_NT.sum(1).long()
    inputs = Ragged((lengths_N - 1).clamp(min=0))
    ids_M = torch.cat([rows.prompt_ids_NP[first_N][real_BP], rows.ids_NT[:, :inputs.width][inputs.real_RW]])
    positions_M = torch.cat([prompts.place_W.expand(prompts.count, -1)[prompts.real_RW],
                             (prompts.lengths_R[group_N][:, None] + inputs.place_W)[inputs.real_RW]])
    ends_N1 = (prompts.starts_R + prompts.lengths_R - 1)[group_N][:, None]
    later_T = torch.arange(rows.mask_NT.shape[1] - 1, device=ids_M.device)
    before_NT = torch.cat([ends_N1, prompts.tokens + inputs.starts_R[:, None] + later_T], 1)
    together = Ragged(torch.zeros_like(prompts.lengths_R).index_add(0, group_N, inputs.lengths_R))
    return Packed(ids_M, positions_M, before_NT[rows.mask_NT > 0], group_N, prompts, inputs, together)


def forward(model: PreTrainedModel, ids_M: Tensor, positions_M: Tensor, keep_C: Tensor, shared: Attention) -> Tensor:
    """logits_1CV at the tokens `keep_C` of one packed row."""
    logits_1CV: Tensor = model(input_ids=ids_M[None], position_ids=positions_M[None], attention_mask=NO_MASK,
                               logits_to_keep=keep_C, use_cache=False, shared=shared).logits
    return logits_1CV
