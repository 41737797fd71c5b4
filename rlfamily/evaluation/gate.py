"""Whether a base model is worth reinforcing: a part of its task's own score, over sampled validation responses."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from rlfamily import tasks
from rlfamily.errors import UserError, nearest
from rlfamily.evaluation.generate import CHUNK, Sampler, params_of
from rlfamily.examples import read_examples
from rlfamily.models import Finetuning
from rlfamily.place import Place
from rlfamily.rollout.settings import Generation
from rlfamily.streams import gate_seed


def gate_value(place: Place, data: Path, model: Path, finetuning: Finetuning, task: str, part: str,
               settings: Generation) -> float:
    """Mean of `part` of the task's own score, over one sampled response to each validation prompt.

    Raises UserError when the task's score has no such part.
    """
    examples = read_examples(data / "validation.jsonl")[:settings.prompts]
    sampler, check = Sampler(place, model, finetuning, settings), tasks.get(task).score
    scores: list[dict[str, float]] = []
    for start in range(0, len(examples), CHUNK):
        place.progress(start, len(examples), "gate")
        asked = examples[start:start + CHUNK]
        drawn = sampler.draw(asked, params_of(settings, "sample"), [gate_seed(example.id) for example in asked], 1)
        scores += [check(text, example.meta) for text, example in zip(sampler.texts(drawn), asked, strict=True)]
    if part not in scores[0]:
        raise UserError(f"task.pretrain.gate.part: the task's score has no '{part}'{nearest(part, scores[0])}")
    return fmean(score[part] for score in scores)
