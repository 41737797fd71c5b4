"""AdamW and its learning-rate schedule."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from rlfamily.settings import Optimizer


def build_optimizer(parameters: Sequence[Tensor], config: Optimizer, lr_multiplier: float) -> AdamW:
    """AdamW at `lr * lr_multiplier` over the trainable parameters."""
    return AdamW(parameters, lr=config.lr * lr_multiplier, betas=(config.beta1, config.beta2),
                 weight_decay=config.weight_decay)


def build_schedule(optimizer: AdamW, config: Optimizer, total_updates: int) -> LambdaLR:
    """Linear warm-up, then constant or linearly down to 0 at the last update."""
    def factor(update: int) -> float:
        if update < config.warmup_steps:
            return (update + 1) / config.warmup_steps
        if config.schedule == "constant":
            return 1.0
        return max(0.0, (total_updates - update) / max(1, total_updates - config.warmup_steps))

    return LambdaLR(optimizer, factor)
