"""Two worlds small enough for logs of all their responses, which tests of methods of logged responses share."""

from __future__ import annotations

from torch import Tensor
from world import World, build

LARGE, SMALL = build(3, 2, True), build(2, 2, True)  # 7 and 3 responses of one or two tokens
NO_KL = {"coef": 0.0, "form": "k3", "place": "loss"}


def start(world: World) -> tuple[Tensor, Tensor]:
    """The reference's logits and the rewards of the world's responses."""
    return world.logits(0).detach(), world.rewards(0)
