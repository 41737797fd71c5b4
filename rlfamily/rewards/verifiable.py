"""The verifiable reward of the TOPR report, eq. 8: r = r_f + r_v with r_f, r_v in {-1, +1}, so r in {-2, 0, 2}."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlfamily.rewards import RewardParts
from rlfamily.tasks import Example, Score, Task


def parts(score: Score) -> RewardParts:
    """Turn a checker's verdict into the report's reward and its two parts."""
    r_f, r_v = (1.0 if verdict else -1.0 for verdict in (score.format, score.valid))
    return RewardParts(reward=r_f + r_v, format=r_f, valid=r_v)


@dataclass(frozen=True)
class Verifiable:
    """Rewards a response by its task's own checker."""

    task: Task

    def score(self, examples: Sequence[Example], responses: Sequence[str]) -> list[RewardParts]:
        """Score response n as an answer to example n. Raises ValueError when their numbers differ."""
        return [parts(self.task.score(response, example.meta))
                for example, response in zip(examples, responses, strict=True)]
