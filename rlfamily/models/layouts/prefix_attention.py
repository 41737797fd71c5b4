"""Attention to a shared prefix and to what follows it, as one softmax, computed in two parts that never meet in memory.

With out_i and lse_i = log sum exp(scores) of part i: out = sum_i exp(lse_i - lse) out_i, lse = log sum_i exp(lse_i).
A part's gradients need the whole out and lse only, so the kernels of torch give them as they are (the identity behind
ring attention, Liu et al. 2023, arXiv:2310.01889). The prefix is neither copied to its rows nor masked for each.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

from rlfamily.models.layouts.ragged import Ragged

flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default


class PrefixAttention(torch.autograd.Function):
    """out_MHD of M tokens after their prefixes.

    From their queries, keys and values (M, H, D) and the prefixes' keys and values (B, H, P, D).
    `own` lays the tokens out row by row, `together` by prefix: the rows of a prefix are one sequence. `bias`
    (B, 1, 1, P) is -inf on the padding of prefixes, None where there is none. For CPUs.
    """

    @staticmethod
    def forward(
        ctx: Any, query_MHD: Tensor, key_MHD: Tensor, value_MHD: Tensor, prefix_key: Tensor, prefix_value: Tensor,
        own: Ragged, together: Ragged, bias: Tensor | None, scale: float,
    ) -> Tensor:
        """Each part's output, weighted by what it has of the whole sum."""
        own_out, own_lse = flash(*map(own.grid, (query_MHD, key_MHD, value_MHD)), 0.0, True, scale=scale)
        out, lse = flash(together.grid(query_MHD), prefix_key, prefix_value, attn_mask=bias, scale=scale)
        own_out, out = own.flat(own_out), together.flat(out)
        own_lse, lse = own.flat(own_lse[..., None]), together.flat(lse[..., None])
        out = torch.lerp(own_out, out, (lse - own_lse).sigmoid().to(out.dtype))
        lse = torch.logaddexp(own_lse, lse)
        ctx.save_for_backward(query_MHD, key_MHD, value_MHD, prefix_key, prefix_value, out, lse)
        ctx.layout = own, together, bias, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_MHD: Tensor) -> tuple[Tensor | None, ...]:
        """Each part's gradients, given the output and the sum of the whole."""
        query, key, value, prefix_key, prefix_value, out, lse = ctx.saved_tensors
        own, together, bias, scale = ctx.layout
        # A pad holds what token 0 has; with an infinite lse it attends to nothing, whatever its scores are.
        own_gradients = flash_backward(
            own.grid(gradient_MHD), own.grid(query), own.grid(key), own.grid(value), own.grid(out),
            own.padded(lse, torch.inf)[..., 0], 0.0, True, scale=scale)
        gradient, key_gradient, value_gradient = flash_backward(
            together.grid(gradient_MHD), together.grid(query), prefix_key, prefix_value, together.grid(out),
            together.padded(lse, torch.inf)[..., 0], 0.0, False, attn_mask=bias, scale=scale)
        query_gradient, *own_rest = (own.flat(part) for part in own_gradients)
        query_gradient = query_gradient + together.flat(gradient)
        return (query_gradient, *own_rest, key_gradient, value_gradient, None, None, None, None)


def masked_attention(
    query_MHD: Tensor, key_MHD: Tensor, value_MHD: Tensor, prefix_key: Tensor, prefix_value: Tensor,
    own: Ragged, prefixes: Ragged, prefix_of_row: Tensor, scale: float,
) -> Tensor:
    """The same on any device, by torch's own attention: each row's keys behind a copy of its prefix's, and a mask."""
    keys, values = (torch.cat([prefix[prefix_of_row], own.grid(states)], 2)
                    for prefix, states in ((prefix_key, key_MHD), (prefix_value, value_MHD)))
    causal_WW = torch.ones(own.width, own.width, dtype=torch.bool, device=query_MHD.device).tril()
    mask = torch.cat([prefixes.real_RW[prefix_of_row][:, None].expand(-1, own.width, -1),
                      causal_WW.expand(own.count, -1, -1)], 2)[:, None]
    return own.flat(scaled_dot_product_attention(own.grid(query_MHD), keys, values, attn_mask=mask, scale=scale))
