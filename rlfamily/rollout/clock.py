"""Where a step's seconds go."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rlfamily.examples import Example
from rlfamily.rewards import Reward, RewardParts


class Clock:
    """Seconds between laps, summed by name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._begun = self._last = time.perf_counter()
        self._begun_cpu = time.process_time()

    def lap(self, name: str) -> None:
        """Book the time since the last lap under `name`."""
        now = time.perf_counter()
        self.laps[name] = self.laps.get(name, 0.0) + now - self._last
        self._last = now

    def totals(self) -> dict[str, float]:
        """The laps, and from beginning to now the seconds by the wall and those that this process computed."""
        return self.laps | {"seconds": time.perf_counter() - self._begun,
                            "cpu_seconds": time.process_time() - self._begun_cpu}


@dataclass(frozen=True)
class TimedReward:
    """A reward that books its seconds, and those before it as generation."""

    reward: Reward
    clock: Clock

    def score(
        self, examples: Sequence[Example], responses: Sequence[str], truncated: Sequence[bool] = ()
    ) -> list[RewardParts]:
        """Score response n as an answer to example n."""
        self.clock.lap("seconds_generate")
        parts = self.reward.score(examples, responses, truncated)
        self.clock.lap("seconds_reward")
        return parts
