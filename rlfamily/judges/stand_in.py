"""The embedded stand-in compares hidden gold rewards, with noise. Not a language model, and called so everywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from rlfamily.errors import UserError
from rlfamily.judges import Answer, OpenChooser, Question, StandInJudge

if TYPE_CHECKING:
    import torch

VERSION = "1"


@dataclass(frozen=True)
class Judge:
    """A function of its settings and the question: the two orders meet different noise, so it may contradict itself."""

    config: StandInJudge

    def answers(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer]]:
        """Answer at once, in order. Raises UserError for responses without a gold reward."""
        for index, question in enumerate(questions):
            yield index, self._answer(question)

    def _answer(self, question: Question) -> Answer:
        if question.gold is None:
            raise UserError("task.judge.kind=stand_in: the responses have no hidden gold reward (part 'gold'): "
                            "only stand-in tasks have one; use openai or causal_lm")
        noise = self.config.noise * Random(f"{self.config.seed}\n{question.text}").gauss()
        longer = self.config.length_bias * (question.words[0] - question.words[1])
        difference = question.gold[0] - question.gold[1] + longer + noise
        if abs(difference) <= self.config.tie_band:
            return "tie"
        return "first" if difference > 0 else "second"


def load(
    config: StandInJudge, model: Path | None, device: torch.device | None, vllm: OpenChooser | None = None
) -> Judge:
    """Make the judge; it needs neither a model nor a device."""
    return Judge(config)
