"""Train a value function: on responses with a reward each, or on what other value functions say of their states."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from pathlib import Path
from statistics import StatisticsError, correlation
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from rlfamily import core, values
from rlfamily.errors import UserError
from rlfamily.examples import Example
from rlfamily.models import Finetuning, sharding, value
from rlfamily.models.batching import Rows, mask_of
from rlfamily.models.policy import load_tokenizer
from rlfamily.models.reward_model import fitted, response_ids
from rlfamily.models.tokens import encode_example, same_tokens
from rlfamily.models.value import ValueFunction
from rlfamily.place import Place
from rlfamily.records import read_jsonl
from rlfamily.streams import epoch_order, shuffle_seed
from rlfamily.trainer.jobs import fit
from rlfamily.trainer.loop import Trainer
from rlfamily.trainer.recipe import Recipe
from rlfamily.trainer.sources import Outcomes, OutcomeSource
from rlfamily.values import ValueBatch, ValueFit

HELD_OUT_SHARE = 10  # one prompt in this many tests the value function instead of training it
TAUGHT = "teachers.safetensors"

Rewarded = tuple[tuple[int, ...], Outcomes]
"""A prompt as the policy was given it, which tells it from others, and the responses to it."""


@dataclass(frozen=True)
class Inputs:
    """Folders: the model to start from, the policy, outcomes and teachers by name."""

    start: Path
    policy: Path
    outcomes: Mapping[str, Path]
    teachers: Mapping[str, Path] = field(default_factory=dict)


def train(place: Place, inputs: Inputs, settings: ValueFit, finetuning: Finetuning) -> dict[str, Any]:
    """Fit nine tenths of the prompts and write model/; the totals say how well V foretells the rewards of the others.

    `held_out_loss` is the loss there, `held_out_correlation` that of V of complete responses with their rewards, and
    `held_out_explained` the share of the rewards' variance that a line in V explains halfway through the responses.
    None where there is nothing to compare. Raises UserError where nothing can be learned.
    """
    accelerator = sharding.accelerator(place.hardware)
    learner = sharding.placed(
        lambda device: value.load(inputs.start, finetuning.dtype, device, True, settings.seed), accelerator)
    groups, counts = _read(learner.tokenizer, inputs, settings)
    outcomes = _joined([group for _, group in groups])
    if settings.betas:
        if accelerator.is_main_process:
            _teach(place, learner, inputs.teachers, outcomes, settings.betas)
        accelerator.wait_for_everyone()
        outcomes = replace(outcomes, teacher_values=_taught(place, outcomes))
    training, held_out = _split(groups, outcomes)
    counts["held_out_outcomes"] = len(held_out)
    if problem := values.problem(torch.tensor(training.rewards), settings.training.loss):
        raise UserError(f"value function: {problem}: nothing can be learned from them")
    if settings.rewards == "shuffled":
        order = epoch_order(len(training), 0, shuffle_seed(settings.seed))
        training = replace(training, rewards=[training.rewards[row] for row in order])
    source = OutcomeSource(training, settings.training.batch_rows, settings.training.epochs, settings.seed)
    trainer = Trainer(learner, None, source, Recipe.of_values(settings.training, finetuning.lr_multiplier), 1.0,
                      place.hardware.micro_tokens, accelerator, settings.seed, 0)
    totals = fit(place, trainer, {"value": settings.model_dump(mode="json"), "model": finetuning.model_dump()})
    return {**counts, **totals, **_foretold(learner, held_out, settings, place.hardware.micro_tokens)}


def _read(
    own: PreTrainedTokenizerBase, inputs: Inputs, settings: ValueFit
) -> tuple[list[Rewarded], dict[str, Any]]:
    """The prompts with their responses, in the tokenizer's `own` tokens, and what became of all there are."""
    tokenizer = None if same_tokens(load_tokenizer(inputs.policy), own) else own
    groups: list[Rewarded] = []
    cut = unanimous = 0
    for name in _ordered(inputs.outcomes):
        rows = islice(read_jsonl(inputs.outcomes[name] / "outcomes.jsonl"), settings.rows)
        for prompt, group, shortened in _groups(rows, tokenizer, settings.max_tokens):
            if settings.drop_unanimous and len(set(group.rewards)) == 1:
                unanimous += 1
                continue
            groups.append((prompt, group))
            cut += shortened * len(group)
    if not groups:
        raise UserError(f"value function: all {unanimous} prompts have responses of one reward only, and "
                        "drop_unanimous leaves them out: nothing remains")
    return groups, {
        "outcomes": sum(len(group) for _, group in groups), "prompts": len({prompt for prompt, _ in groups}),
        "cut_outcomes": cut, "unanimous_prompts": unanimous, "own_tokens": tokenizer is not None}


def _split(groups: Sequence[Rewarded], outcomes: Outcomes) -> tuple[Outcomes, Outcomes]:
    """Responses to train on, and those held out: no prompt has some in both."""
    prompts = list(dict.fromkeys(prompt for prompt, _ in groups))
    tested = frozenset(prompts[:len(prompts) // HELD_OUT_SHARE])
    held = [prompt in tested for prompt, group in groups for _ in range(len(group))]
    training, held_out = (outcomes.at([row for row, out in enumerate(held) if out == wanted])
                          for wanted in (False, True))
    return training, held_out


def _groups(
    rows: Iterator[dict[str, Any]], tokenizer: PreTrainedTokenizerBase | None, limit: int
) -> Iterator[tuple[tuple[int, ...], Outcomes, bool]]:
    """Responses of each prompt, side by side in the file, and whether they had to be cut to `limit` tokens.

    Tokens are the policy's, or, with a `tokenizer`, those that it makes of the texts.
    """
    for prompt, found in groupby(rows, key=lambda row: tuple(row["prompt_ids"])):
        group = list(found)
        truncated = [bool(row["truncated"]) for row in group]
        if tokenizer is None:
            ids, completions = list(prompt), [row["ids"] for row in group]
        else:
            ids = encode_example(tokenizer, Example(str(group[0].get("id", "a prompt")), group[0]["prompt"],
                                                    {"messages": group[0].get("messages")}))
            completions = response_ids(tokenizer, [row["response"] for row in group], truncated)
        fitting, cut = fitted(ids, completions, limit)
        yield prompt, Outcomes(fitting, truncated, [float(row["reward"]) for row in group]), cut


def _joined(groups: Sequence[Outcomes]) -> Outcomes:
    rows = Rows([prompt for group in groups for prompt in group.rows.prompts],
                [ids for group in groups for ids in group.rows.completions])
    return Outcomes(rows, [cut for group in groups for cut in group.truncated],
                    [reward for group in groups for reward in group.rewards])


def _taught(place: Place, outcomes: Outcomes) -> list[list[float]]:
    """sum_t V_t / beta_t of every state of every row, as `_teach` left it."""
    sizes = [len(ids) + 1 for ids in outcomes.rows.completions]
    return [part.tolist() for part in torch.split(load_file(place.work / TAUGHT)["sum_C"], sizes)]


def _teach(
    place: Place, learner: ValueFunction, teachers: Mapping[str, Path], outcomes: Outcomes, betas: Sequence[float]
) -> None:
    """Ask the teachers about every state; a run that goes on finds the answers."""
    if len(teachers) != len(betas):
        raise UserError(f"value function: {len(teachers)} teachers and {len(betas)} betas: name one for each")
    path = place.work / TAUGHT
    if path.exists():
        return
    total_C = torch.zeros(())
    for count, (name, beta) in enumerate(zip(_ordered(teachers), betas, strict=True)):
        place.progress(count, len(teachers), f"teacher {name}")
        teacher = value.load(teachers[name] / "model", learner.dtype, learner.device, trainable=False)
        if not same_tokens(teacher.tokenizer, learner.tokenizer):
            raise UserError(f"value function: teacher '{name}' has other tokens than the one that imitates it: start "
                            "from one of the teachers")
        states = teacher.score_states(outcomes.rows, place.hardware.micro_tokens)
        total_C = total_C + torch.tensor([one for row in states for one in row]) / beta
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"sum_C": total_C}, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def _foretold(learner: ValueFunction, held_out: Outcomes, settings: ValueFit, micro_tokens: int) -> dict[str, Any]:
    if not len(held_out):
        return {"held_out_loss": None, "held_out_correlation": None, "held_out_explained": None}
    states = learner.score_states(held_out.rows, micro_tokens)
    width = max(map(len, states))
    padded_NS, taught_NS = (torch.tensor([row + [0.0] * (width - len(row)) for row in rows])
                            for rows in (states, held_out.teacher_values or states))
    mask_NS = mask_of([range(len(row)) for row in states], width)
    batch = ValueBatch(padded_NS, mask_NS, torch.tensor(held_out.rewards), teacher_NS=taught_NS)
    output = values.get(settings.training.loss.kind).loss(batch, settings.training.loss)
    halfway = _correlation([row[(len(row) - 1) // 2] for row in states], held_out.rewards)
    return {"held_out_loss": core.to_floats({"loss": output.loss})["loss"],
            "held_out_correlation": _correlation([row[-1] for row in states], held_out.rewards),
            "held_out_explained": None if halfway is None else halfway ** 2}


def _correlation(found: Sequence[float], rewards: Sequence[float]) -> float | None:
    """None where it is not defined: one row, or one number for all."""
    try:
        return correlation(found, rewards)
    except StatisticsError:
        return None


def _ordered(folders: Mapping[str, Path]) -> list[str]:
    """Names in their order: 2 before 10."""
    return sorted(folders, key=lambda name: (len(name), name))
