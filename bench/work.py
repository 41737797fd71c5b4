"""The work both sides of the race do, and how each is told to do a step of it. Standard library only: the peer's
environment has neither this product nor what it needs.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bench.measure import peak_mib

WORDS, SPECIAL = 257, 3
"""Token SPECIAL + n is the word str(n), in the order of strings; the first three are padding, unknown and end."""

STOPS = 8
"""In a case with early stops each of the last STOPS tokens ends a response: about one token in 32 at random weights."""

VOCABULARY = WORDS + SPECIAL
STOP_IDS = list(range(VOCABULARY - STOPS, VOCABULARY))

# What both sides are given. Everything that is not here is each side's own business.
LEARNING_RATE, BETA1, BETA2, WEIGHT_DECAY, CLIP_NORM = 1e-5, 0.9, 0.999, 0.0, 1.0
RATIO_CLIP, DPO_BETA = 0.2, 0.1


@dataclass(frozen=True)
class Case:
    """One race: `prompts` groups of `group` rows a step, `prompt` and `new` tokens each; pairs are groups of two.

    With `stops` rows end where the model draws a stop token (pairs: at random lengths), else all have `new` tokens.
    `rounds` steps count, after `warm_up` that do not.
    """

    method: str
    size: str
    prompt: int
    stops: bool
    prompts: int
    rounds: int
    group: int = 8
    new: int = 64
    dtype: str = "fp32"
    warm_up: int = 2

    @property
    def name(self) -> str:
        """For people."""
        ends = "early stops" if self.stops else "no stops"
        return f"{self.method.upper()} {self.size}, prompt {self.prompt}, {ends}, {self.dtype}"

    @property
    def steps(self) -> int:
        """All steps of one side."""
        return self.warm_up + self.rounds

    def prompt_texts(self) -> list[str]:
        """The prompts of every rollout step; of pairs, all those of the race."""
        chance, count = random.Random(0), self.prompts * (self.steps if self.method == "dpo" else 1)
        return [_text(chance, self.prompt) for _ in range(count)]

    def pair_texts(self) -> list[dict[str, str]]:
        """Prompt, chosen and rejected, without the end token that both sides append."""
        chance, most = random.Random(1), self.new - 1
        least = max(1, self.new // 8) if self.stops else most
        return [{"prompt": prompt, "chosen": _text(chance, chance.randint(least, most)),
                 "rejected": _text(chance, chance.randint(least, most))} for prompt in self.prompt_texts()]


def _text(chance: random.Random, tokens: int) -> str:
    return " ".join(str(chance.randrange(WORDS)) for _ in range(tokens))


def reward(text: str) -> float:
    """The share of even words: cheap, and never the same for a whole group."""
    words = text.split()
    return sum(int(word) % 2 == 0 for word in words) / max(1, len(words))


class Gate:
    """Stands in a training loop: lets it run one step for each line on stdin, and answers what the step took.

    CPU seconds of this process and wall seconds run from the order to the answer, so they hold all that the loop does
    between its steps as well. Phases exclude the phases inside them; what no phase books is "other". `facts` of a step
    go into its answer, and may bring other phases.
    """

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what anything prints must not stand between the answers
        self.order: dict[str, Any] = {}
        self.facts: dict[str, Any] = {}
        self.phases: dict[str, float] = {}
        self._open = ["other"]
        self._cpu = self._wall = self._last = 0.0

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Book the CPU seconds inside under `name`."""
        self._book()
        self._open.append(name)
        try:
            yield
        finally:
            self._book()
            self._open.pop()

    def next(self) -> None:
        """Answer for the step that ends here, and wait for the order to run the next; the end of orders ends all."""
        self._book()
        cpu, wall = time.process_time() - self._cpu, time.perf_counter() - self._wall
        self.say(**{"cpu": cpu, "wall": wall, "phases": self.phases, "peak_mib": peak_mib(), **self.facts})
        self.wait()

    def wait(self) -> None:
        """Wait for an order and start the clocks."""
        line = sys.stdin.readline()
        if not line:
            os._exit(0)  # a race has no use for what the loop would write at its end
        self.order, self.facts, self.phases = json.loads(line), {}, {}
        self._cpu = self._last = time.process_time()
        self._wall = time.perf_counter()

    def say(self, **answer: Any) -> None:
        """One line for the race."""
        self._answers.write(json.dumps(answer) + "\n")
        self._answers.flush()

    def _book(self) -> None:
        now = time.process_time()
        self.phases[self._open[-1]] = self.phases.get(self._open[-1], 0.0) + now - self._last
        self._last = now


def note_gradients(gate: Gate) -> None:
    """Make every optimiser of this process say, at its first step, the norm of each weight's gradient, sorted."""
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    def hook(optimizer: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        handle.remove()
        norms = [float(weight.grad.norm()) for group in optimizer.param_groups for weight in group["params"]]
        gate.facts["gradient_norms"] = sorted(norms)

    handle = register_optimizer_step_pre_hook(hook)
