"""Value stage: a value function fitted to the outcomes of responses, or to other value functions (IRO Eq. 7, 10)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlfamily import values
from rlfamily.models import Finetuning
from rlfamily.place import Place
from rlfamily.stages.kind import Versioned
from rlfamily.values import ValueFit

VERSION = "1"
WRITES = {"model/": "weights, tokenizer and the bias of the values", "metrics.jsonl": "a training step",
          "timings.jsonl": "a step's seconds", "samples.jsonl": "nothing: no response is drawn"}


class Config(ValueFit):
    """What it is fitted to, and how. It is trained whole, whatever `finetuning.finetune` says of policies."""

    finetuning: Finetuning


@dataclass(frozen=True)
class Inputs:
    """The model it starts from (a reward model, a value function, a causal model), and the policy.

    `outcomes` are folders of outcomes.jsonl by name: a response with `prompt_ids` and `ids` (the policy's tokens, the
    end included), `prompt` and `response` (texts, for other tokens; `messages` where the prompt is a chat), `truncated`
    and `reward`, the rows of a prompt side by side. `teachers` are value functions by name.
    """

    start: Path
    policy: Path
    outcomes: Mapping[str, Path]
    teachers: Mapping[str, Path] = field(default_factory=dict)


def uses(config: Config) -> Iterator[Versioned]:
    """The loss."""
    yield values.get(config.training.loss.kind)


def run(place: Place, config: Config, inputs: Inputs) -> dict[str, Any]:
    """Fit the outcomes, over several processes where the hardware says so; each of those comes here again."""
    from rlfamily.stages import launched

    if place.hardware.processes > 1 and not launched.inside():
        return launched.relaunched(place)
    from rlfamily.trainer import value_function

    given = value_function.Inputs(inputs.start / "model", inputs.policy / "model", inputs.outcomes, inputs.teachers)
    return value_function.train(place, given, config, config.finetuning)
