"""A tensor of another shape is refused by whatever takes several: broadcasting would make numbers of it in silence."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from rlfamily import core

NT, N, ENDS = torch.ones(4, 3), torch.ones(4), torch.full((4, 2), 3)
CALLS: dict[str, tuple[Any, dict[str, torch.Tensor]]] = {
    "masked": (core.masked, {"x_NT": NT, "mask_NT": NT}),
    "expectation_over_rows": (core.expectation_over_rows, {"x_N": N, "row_weight_N": N}),
    "nonempty_weights": (core.nonempty_weights, {"mask_NT": NT, "row_weight_N": N}),
    "token_mean": (core.token_mean, {"x_NT": NT, "mask_NT": NT, "row_weight_N": N}),
    "log_ratios": (core.log_ratios, {"logp_NT": NT, "other_logp_NT": NT, "mask_NT": NT}),
    "group_center": (partial(core.group_center, group_size=1), {"rewards_N": N}),
    "at_last_token": (core.at_last_token, {"x_N": N, "mask_NT": NT}),
    "generalized_advantages": (partial(core.generalized_advantages, gamma=1.0, lam=1.0),
                               {"rewards_NT": NT, "values_NT": NT, "mask_NT": NT}),
    "step_starts": (core.step_starts, {"step_ends_NS": ENDS, "mask_NT": NT}),
    "token_prefixes": (partial(core.token_prefixes, group_size=1, max_length=None), {"log_ratio_NT": NT, "mask_NT": NT}),
    "step_prefixes": (partial(core.step_prefixes, group_size=1), {"log_ratio_NT": NT, "mask_NT": NT, "step_ends_NS": ENDS}),
    "whole_prefixes": (partial(core.whole_prefixes, group_size=1), {"log_ratio_NT": NT, "mask_NT": NT}),
    "pair_differences": (partial(core.pair_differences, group_size=2), {"x_N": N}),
    "bradley_terry_nll": (core.bradley_terry_nll, {"margin_B": N}),
}


@pytest.mark.parametrize("name", CALLS)
def test_another_shape_is_refused(name: str) -> None:
    function, given = CALLS[name]
    function(**given)
    alike = sum(tensor is NT for tensor in given.values()) > 1
    for argument, tensor in given.items():
        rows = [tensor[:1]] if len(given) > 1 else []
        for other in (tensor[:, None], *rows, *([tensor[:, :1]] if alike and tensor is NT else [])):
            with pytest.raises(ValueError, match="shape"):
                function(**given | {argument: other})
