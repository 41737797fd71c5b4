"""Where a step's rows come from: demonstrations, preference pairs, logged responses, or rollouts of the policy itself.

Data order and random streams are functions of (seed, epoch, prompt), so the position in the data is the step number;
only logged rollouts, and what a curriculum remembers, are state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from operator import itemgetter
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from rlfamily.curricula import Curriculum, Prompts
from rlfamily.examples import Example
from rlfamily.models.batching import Rows
from rlfamily.models.logged import LoggedRows
from rlfamily.rollout.clock import Clock
from rlfamily.rollout.collect import Group
from rlfamily.streams import epoch_order, epoch_slice

Item = TypeVar("Item")


@dataclass(frozen=True)
class TrainBatch:
    """N rows; groups of `group_size` are contiguous. `old_logp` holds logged behaviour log-probs, row by row.
    `ref_logp` holds those of the initial policy, where they are known; `teacher_values` what every state of a row is
    worth to those that a value function imitates.

    Where groups are ragged, `group_size` is 0 and `prompt_index_N` tells them apart: 0, 1, 2, ... in the rows' order.
    `kept` is the share of the groups drawn that a curriculum kept.
    """

    rows: Rows
    group_size: int
    rewards: list[float] = field(default_factory=list)
    parts: list[dict[str, float]] = field(default_factory=list)
    truncated: list[bool] = field(default_factory=list)
    sampler_logp: list[list[float]] = field(default_factory=list)
    sampler_entropy: list[float] = field(default_factory=list)
    old_logp: list[list[float]] = field(default_factory=list)
    ref_logp: list[list[float]] = field(default_factory=list)
    teacher_values: list[list[float]] = field(default_factory=list)
    prompt_texts: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    prompt_index_N: Tensor | None = None
    kept: float = 1.0


class Source(Protocol):
    """Batches by step number."""

    steps_per_epoch: int
    total_steps: int

    def batch(self, step: int, clock: Clock) -> TrainBatch:
        """The rows of one step, the same for the same step and weights; `clock` books where its seconds went."""
        ...

    def log_behaviour(self, step: int, batch: TrainBatch, logp_NT: Tensor) -> None:
        """Remember the behaviour log-probs of a step's rows, for later epochs that reuse them."""
        ...

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold beside the step number."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Undo `state`."""
        ...


class Known(Generic[Item]):
    """Groups known before training, the same in every epoch but for their order.

    A row that ends with none of `ends` is truncated.
    """

    def __init__(self, groups: Sequence[Item], batch_groups: int, epochs: int, seed: int, ends: Sequence[int]) -> None:
        self.groups, self.batch_groups, self.seed, self.ends = groups, batch_groups, seed, ends
        self.steps_per_epoch = -(-len(groups) // batch_groups)
        self.total_steps = self.steps_per_epoch * epochs

    def chosen(self, step: int) -> list[Item]:
        """The step's groups, in the epoch's own order."""
        return [self.groups[index] for index in
                epoch_slice(len(self.groups), self.batch_groups, step, self.steps_per_epoch, self.seed)]

    def as_batch(self, groups: Sequence[Rows], group_size: int) -> TrainBatch:
        """Groups as rows, without what only some sources know of them."""
        rows = Rows([prompt for group in groups for prompt in group.prompts],
                    [completion for group in groups for completion in group.completions])
        return TrainBatch(rows, group_size, truncated=[not ids or ids[-1] not in self.ends for ids in rows.completions])

    def log_behaviour(self, step: int, batch: TrainBatch, logp_NT: Tensor) -> None:
        """Nothing to remember: the rows are not the policy's own."""

    def state(self) -> dict[str, Any]:
        """No state beside the step number."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


class FixedSource(Known[Rows]):
    """Demonstrations (groups of one) or preference pairs (groups of two)."""

    def batch(self, step: int, clock: Clock) -> TrainBatch:
        """The step's groups."""
        groups = self.chosen(step)
        return self.as_batch(groups, len(groups[0]))


class LoggedSource(Known[int]):
    """Logged responses with a reward each: a step takes whole prompts, with as many responses as each has.

    The loss sees the rewards of `rows`, of which the first `prompts` prompts are taken.
    """

    def __init__(
        self, rows: LoggedRows, prompts: int, batch_groups: int, epochs: int, seed: int, ends: Sequence[int]
    ) -> None:
        super().__init__(range(prompts), batch_groups, epochs, seed, ends)
        self.rows = rows

    def batch(self, step: int, clock: Clock) -> TrainBatch:
        """The step's prompts, each with all its responses."""
        groups = [self.rows.group(place) for place in self.chosen(step)]
        sizes = torch.tensor([len(group.rewards) for group in groups])
        rewards = [reward for group in groups for reward in group.rewards]
        return replace(self.as_batch([group.rows for group in groups], 0), rewards=rewards, parts=[{}] * len(rewards),
                       ref_logp=[row for group in groups for row in group.ref_logp],
                       prompt_index_N=torch.arange(len(groups)).repeat_interleave(sizes))


@dataclass(frozen=True)
class Outcomes:
    """Responses with a reward each, those of a prompt side by side; `teacher_values` as in `TrainBatch`, or empty."""

    rows: Rows
    truncated: list[bool]
    rewards: list[float]
    teacher_values: list[list[float]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rewards)

    def at(self, places: Sequence[int]) -> Outcomes:
        """Those at the places, in their order."""
        rows = Rows([self.rows.prompts[place] for place in places], [self.rows.completions[place] for place in places])
        return Outcomes(rows, [self.truncated[place] for place in places], [self.rewards[place] for place in places],
                        [self.teacher_values[place] for place in places] if self.teacher_values else [])


class OutcomeSource(Known[int]):
    """Outcomes one by one: in a step those of a prompt lie side by side, as far as chance brings them together."""

    def __init__(self, outcomes: Outcomes, batch_rows: int, epochs: int, seed: int) -> None:
        super().__init__(range(len(outcomes)), batch_rows, epochs, seed, ())
        self.outcomes = outcomes

    def batch(self, step: int, clock: Clock) -> TrainBatch:
        """The step's responses."""
        taken = self.outcomes.at(sorted(self.chosen(step)))
        return TrainBatch(taken.rows, 1, taken.rewards, [{}] * len(taken), taken.truncated,
                          teacher_values=taken.teacher_values)


class RolloutSource:
    """Rollouts of the policy as it is at the step; with `resample` false, epochs after the first replay the log.

    A replayed epoch takes the logged batches whole, in a new order, with their behaviour log-probs. `curriculum` says
    which prompts are drawn and which groups are kept; a step of which it keeps none takes its first draw whole.
    `refresh` is called once a step, before the first draw.
    """

    def __init__(
        self, examples: Sequence[Example], refresh: Callable[[], None],
        collect: Callable[[list[Example], int, Clock], list[Group]], prompts: Prompts, curriculum: Curriculum,
        group_size: int, epochs: int, resample: bool,
    ) -> None:
        self.examples, self.refresh, self.collect, self.group_size = list(examples), refresh, collect, group_size
        self.prompts, self.curriculum = prompts, curriculum
        self.replays = epochs > 1 and not resample
        self.steps_per_epoch = prompts.steps_per_epoch
        self.total_steps = self.steps_per_epoch * epochs
        self.log: dict[int, TrainBatch] = {}

    def batch(self, step: int, clock: Clock) -> TrainBatch:
        """Fresh rollouts, or logged ones."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self.replays and epoch > 0:
            return self.log[epoch_order(self.steps_per_epoch, epoch, self.prompts.seed)[place]]
        self.refresh()
        drawn: list[list[Group]] = []
        kept: list[Group] = []
        while chosen := self.curriculum.select(step, len(drawn), len(drawn[0]) - len(kept) if drawn else 0):
            drawn.append(self._draw(chosen, clock))
            kept += self._kept(drawn[-1])
            if len(kept) == len(drawn[0]):
                break
        return replace(as_batch(kept or drawn[0], self.group_size), kept=len(kept) / sum(map(len, drawn)))

    def _draw(self, chosen: list[tuple[int, int]], clock: Clock) -> list[Group]:
        """Those prompts' groups, one call of the engine for each pass over the data that they belong to."""
        return [group for turned, part in groupby(chosen, key=itemgetter(0))
                for group in self.collect([self.examples[place] for _, place in part], turned, clock)]

    def _kept(self, groups: list[Group]) -> list[Group]:
        flags = self.curriculum.keep([[part.reward for part in group.parts] for group in groups])
        return [group for group, flag in zip(groups, flags, strict=True) if flag]

    def log_behaviour(self, step: int, batch: TrainBatch, logp_NT: Tensor) -> None:
        """Keep a first-epoch batch with the log-probs of the policy that drew it."""
        if self.replays and step < self.steps_per_epoch:
            logp = [row[:len(ids)] for row, ids in zip(logp_NT.tolist(), batch.rows.completions, strict=True)]
            self.log[step] = replace(batch, old_logp=logp)

    def state(self) -> dict[str, Any]:
        """The logged batches and the rule's state, as plain data."""
        return {"log": {step: asdict(batch) for step, batch in self.log.items()}, "curriculum": self.curriculum.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take both back."""
        self.curriculum.restore(state["curriculum"])
        self.log = {step: TrainBatch(**{**batch, "rows": Rows(**batch["rows"])})
                    for step, batch in state["log"].items()}


def as_batch(groups: Sequence[Group], group_size: int) -> TrainBatch:
    """Flatten groups of responses into rows."""
    flat = [(group, completion, text, part) for group in groups
            for completion, text, part in zip(group.completions, group.texts, group.parts, strict=True)]
    return TrainBatch(
        rows=Rows([group.prompt_ids for group, *_ in flat], [completion.ids for _, completion, *_ in flat]),
        group_size=group_size,
        rewards=[part.reward for *_, part in flat],
        parts=[part.parts for *_, part in flat],
        truncated=[completion.truncated for _, completion, *_ in flat],
        sampler_logp=[completion.logps for _, completion, *_ in flat],
        sampler_entropy=[completion.entropy for _, completion, *_ in flat],
        prompt_texts=[group.example.prompt for group, *_ in flat],
        texts=[text for _, _, text, _ in flat],
    )
