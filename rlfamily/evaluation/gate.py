"""Whether a base model is worth reinforcing: a part of its task's own score, over sampled validation responses."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from rlfamily import tasks
from rlfamily.errors import UserError, nearest
from rlfamily.evaluation.sampler import CHUNK, Prompts, Sampler
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
    prompts = Prompts(data.name, "validation", dict(enumerate(examples)), lambda example: gate_seed(example.id))
    scores: list[dict[str, float]] = []
    for start in range(0, len(examples), CHUNK):
        place.progress(start, len(examples), "gate")
        asked = examples[start:start + CHUNK]
        drawn = sampler.draw(prompts, "sample", [(start + place, 0) for place in range(len(asked))])
        texts = sampler.texts([one.completion for one in drawn])
        scores += [check(text, example.meta) for text, example in zip(texts, asked, strict=True)]
    if part not in scores[0]:
        raise UserError(f"task.pretrain.gate.part: the task's score has no '{part}'{nearest(part, scores[0])}")
    return fmean(score[part] for score in scores)
