"""Groups of any size: the rows of a prompt, told apart by an index that counts prompts in the rows' order."""

from __future__ import annotations

import torch
from torch import Tensor


def group_index(count: int, group_size: int, prompt_index_N: Tensor | None, device: torch.device) -> Tensor:
    """The index of each row's group, (N,): as given where groups are ragged, else `count` rows in groups of one size.

    Raises ValueError when neither tells the groups apart.
    """
    if prompt_index_N is not None:
        return prompt_index_N.to(device)
    if group_size < 1 or count % group_size:
        raise ValueError(f"{count} rows are not whole groups of {group_size}, and no prompt_index_N tells them apart")
    return torch.arange(count, device=device) // group_size


def group_logsumexp(x_N: Tensor, index_N: Tensor) -> Tensor:
    """log of the sum of exp(x) over each group's rows, (B,).

    Rows at -inf add nothing; a group that has no other gives -inf. The largest row is taken out before any exp.
    """
    groups = int(index_N.max()) + 1
    most_B = x_N.new_full((groups,), -torch.inf).scatter_reduce(0, index_N, x_N.detach(), "amax")
    most_B = torch.where(most_B.isinf(), 0.0, most_B)
    return x_N.new_zeros(groups).index_add(0, index_N, (x_N - most_B[index_N]).exp()).log() + most_B
