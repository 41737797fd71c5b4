r"""The mathematical reward of GN-IVO: a right answer, and an answer in a box at all (paper sec. 4.1, app. C.1).

    R = w_correct 1[the last box equals the right answer] + w_format 1[there is a \boxed{...}]

The paper gives no weights; alpha=0.2 turns a format weight w into a factor exp(w / 0.2) between group weights.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from rlfamily.errors import UserError
from rlfamily.rewards import Check, ClassifierEngine, RewardConfig, RewardParts

if TYPE_CHECKING:
    import torch

    from rlfamily.examples import Example

VERSION = "1"
NEEDS: frozenset[str] = frozenset({"format", "valid"})
THREADS = 4  # answers checked at the same time, each in a process of its own: one that takes long holds up no other


class Config(RewardConfig):
    """The weights of the two parts."""

    kind: Literal["correctness"]
    correct: float = Field(ge=0)
    format: float = Field(ge=0)


@dataclass(frozen=True)
class Correctness:
    """Rewards a response by its task's own checker, which says `format` and `valid` (0 or 1 each)."""

    check: Check
    config: Config

    def score(
        self, examples: Sequence[Example], responses: Sequence[str], truncated: Sequence[bool] = ()
    ) -> list[RewardParts]:
        """Score response n as an answer to example n. Raises ValueError when their numbers differ."""
        if len(examples) != len(responses):
            raise ValueError(f"{len(responses)} responses to {len(examples)} examples")
        with ThreadPoolExecutor(THREADS) as threads:
            verdicts = list(threads.map(self.check, responses, [example.meta for example in examples]))
        return [RewardParts(self.config.correct * parts["valid"] + self.config.format * parts["format"], parts)
                for parts in verdicts]


def load(
    config: Config, check: Check, models: Mapping[str, Path], device: torch.device, micro_batch: int,
    vllm: ClassifierEngine | None = None,
) -> Correctness:
    """The checker of `task`, weighted. Raises UserError when math-verify is missing: every answer would be wrong."""
    if importlib.util.find_spec("math_verify") is None:
        raise UserError("task.reward: the package math-verify is not installed: run make setup")
    return Correctness(check, config)
