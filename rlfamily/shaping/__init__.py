"""Transforms of the rewards of a batch, before the loss sees them: one file each, pure.

The file system is the registry: `get("overlong")` imports `rlfamily/shaping/overlong.py`. A method's yaml lists which
are used, in order; what is recorded as `reward` stays the reward as it was given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from pydantic import SerializeAsAny

from rlfamily.plugins import Plugins
from rlfamily.settings import Strict, by_kind

if TYPE_CHECKING:
    from torch import Tensor


class ShapingConfig(Strict):
    """Common part of every shaping's Config: its file in this folder."""

    kind: str


class Shaping(Protocol):
    """What a module in this folder offers. VERSION is changed by hand when its numbers change."""

    VERSION: str
    Config: type[ShapingConfig]

    def shape(
        self, config: Any, rewards_N: Tensor, parts: Mapping[str, Tensor], lengths_N: Tensor, group_size: int,
        progress: float,
    ) -> Tensor:
        """The rewards that the loss sees, (N,).

        parts      what is recorded beside the reward, by name, (N,) each
        lengths_N  tokens of each response, its end included
        progress   fraction of training done, in [0, 1]
        """
        ...


SHAPINGS = Plugins[Shaping]("shaping", "algorithm.shaping", "shaping")
names, get = SHAPINGS.names, SHAPINGS.get


def shaped(
    configs: Sequence[ShapingConfig], rewards_N: Tensor, parts: Mapping[str, Tensor], lengths_N: Tensor,
    group_size: int, progress: float,
) -> Tensor:
    """The rewards after every shaping of the list, in its order."""
    for config in configs:
        rewards_N = get(config.kind).shape(config, rewards_N, parts, lengths_N, group_size, progress)
    return rewards_N


AnyShaping = Annotated[SerializeAsAny[ShapingConfig], by_kind(lambda kind: get(kind).Config)]
