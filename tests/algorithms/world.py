"""The enumerable world (rlfamily/theory/world.py) and what tests need beside it: hand-written batches,
shipped settings, comparisons.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from rlfamily import core
from rlfamily.algorithms import LossBatch, get
from rlfamily.theory.world import World as World
from rlfamily.theory.world import build as build
from rlfamily.theory.world import grad as grad
from rlfamily.theory.world import pairs as pairs
from rlfamily.theory.world import policy_gradient as policy_gradient
from rlfamily.theory.world import rollouts as rollouts

CONF = Path(__file__).parents[2] / "conf" / "algorithm"


def rows(
    logp: list[list[float]],
    mask: list[list[int]] | None = None,
    rewards: list[float] | None = None,
    group_size: int = 1,
    old: list[list[float]] | None = None,
    ref: list[list[float]] | None = None,
    dtype: torch.dtype = torch.float64,
    **fields: Any,
) -> LossBatch:
    """A batch written out by hand."""
    logp_NT = torch.tensor(logp, dtype=dtype, requires_grad=True)
    mask_NT = torch.ones_like(logp_NT).detach() if mask is None else torch.tensor(mask, dtype=dtype)
    rewards_N = (
        torch.zeros(len(logp), dtype=dtype)
        if rewards is None
        else torch.tensor(rewards, dtype=dtype)
    )
    return LossBatch(
        logp_NT,
        mask_NT,
        rewards_N,
        group_size,
        old_logp_NT=None if old is None else torch.tensor(old, dtype=dtype),
        ref_logp_NT=None if ref is None else torch.tensor(ref, dtype=dtype),
        **fields,
    )


def config(name: str, **changes: Any) -> Any:
    """The method's shipped yaml with some keys replaced, validated."""
    values = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    assert isinstance(values, dict)
    return get(name).Config.model_validate({**values, **changes})


def loss_grad(name: str, batch: LossBatch, settings: Any, wrt: Tensor | None = None) -> Tensor:
    """Gradient of the package's own loss, by default with respect to the log-probs."""
    return grad(get(name).loss(batch, settings).loss, batch.logp_NT if wrt is None else wrt)


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    """Assert equality up to float64 rounding."""
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def patch_core(patch: pytest.MonkeyPatch, name: str, wrong: Callable[..., Any]) -> None:
    """Replace a function of core for the methods and for core itself."""
    getattr(core, name)  # loads the module that has it
    for module, found in list(sys.modules.items()):
        if module.startswith("rlfamily.core.") and hasattr(found, name):
            patch.setattr(found, name, wrong)
    patch.setattr(core, name, wrong)
