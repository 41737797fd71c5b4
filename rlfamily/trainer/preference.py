"""Train a reward model: on preferences that come with a stand-in's data, or on a policy's own labelled pairs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from rlfamily.errors import UserError
from rlfamily.examples import Demonstration, read_demonstrations
from rlfamily.models import Finetuning, reward_model, scratch, sharding
from rlfamily.models.batching import Rows
from rlfamily.models.reward_model import fitted, response_ids
from rlfamily.models.tokens import prompt_ids
from rlfamily.place import Place
from rlfamily.records import read_jsonl
from rlfamily.rewards import Fitted
from rlfamily.settings import PairTraining, RewardModelSettings
from rlfamily.trainer.jobs import fit
from rlfamily.trainer.loop import Trainer
from rlfamily.trainer.recipe import Recipe
from rlfamily.trainer.sources import FixedSource

HELD_OUT_SHARE = 10  # one pair in this many tests the model instead of training it
REFERENCES = 512  # lines of the corpus whose mean score is made 0


def train_from_scratch(place: Place, data: Path, source: Fitted, limit: int) -> dict[str, Any]:
    """Fit a small new model to the task's own preferences and write it to model/, centred on the corpus.

    Rows are cut to `limit` tokens as `_pairs` says. The totals hold `held_out_accuracy`. Raises UserError when that is
    below source.min_accuracy.
    """
    tokenizer = scratch.tokenizer_of(data)
    device = sharding.accelerator(place.hardware).device
    learner = reward_model.start(scratch.build_model(source.shape, tokenizer), tokenizer, device)
    rows = islice(read_jsonl(_preferences(data, source.preferences)), source.most)
    pairs, counts = _pairs(tokenizer, ({**row, "prompt_ids": prompt_ids(tokenizer, row["prompt"])} for row in rows),
                           limit)
    corpus = [Demonstration(**row) for row in islice(read_jsonl(data / "corpus.jsonl"), REFERENCES)]
    totals = counts | _fit(place, learner, pairs, source.training, 1.0, source.shape.seed,
                           _references(tokenizer, corpus, limit))
    accuracy = totals["held_out_accuracy"] or 0.0
    if accuracy < source.min_accuracy:
        raise UserError(
            f"reward model '{source.preferences}': orders {accuracy:.3f} of {totals['held_out_pairs']} held-out "
            f"pairs as their labels do, less than min_accuracy={source.min_accuracy}: raise training.epochs")
    return totals


def train_on_own_pairs(
    place: Place, data: Path, start: Path, pairs: Path, settings: RewardModelSettings, finetuning: Finetuning,
    limit: int, seed: int,
) -> dict[str, Any]:
    """Fit a Bradley-Terry model, begun from the policy in `start`, to that policy's pairs (TOPR report Eq. 3).

    It is centred on the demonstrations.
    """
    torch.manual_seed(seed)
    learner = reward_model.load(start, finetuning, sharding.accelerator(place.hardware).device, trainable=True)
    demonstrations = read_demonstrations(data / "demonstrations_validation.jsonl")
    own, counts = _pairs(learner.tokenizer, read_jsonl(pairs / "pairs.jsonl"), limit)
    return counts | _fit(place, learner, own, settings, finetuning.lr_multiplier, seed,
                         _references(learner.tokenizer, demonstrations, limit))


def _fit(
    place: Place, learner: reward_model.RewardModel, pairs: Sequence[Rows], training: PairTraining,
    lr_multiplier: float, seed: int, references: Sequence[Rows],
) -> dict[str, Any]:
    """Fit nine tenths of the pairs (chosen first), centre on the references, write model/.

    `held_out_accuracy` is the share of the other pairs that the model orders as their labels do, None without any.
    """
    accelerator, micro_batch = sharding.accelerator(place.hardware), place.hardware.micro_batch
    held_out = len(pairs) // HELD_OUT_SHARE
    source = FixedSource(pairs[held_out:], training.batch_pairs, training.epochs, seed, (learner.eos_id,))
    trainer = Trainer(learner, None, source, Recipe.of_pairs(training, lr_multiplier), 1.0,
                      place.hardware.micro_tokens, accelerator, seed, 0)
    totals = fit(place, trainer, training.model_dump())
    if not accelerator.is_main_process:
        return totals
    learner.bias = fmean(_scores(learner, references, micro_batch))
    learner.save(place.out / "model")
    scores = _scores(learner, pairs[:held_out], micro_batch)
    right = [chosen > rejected for chosen, rejected in zip(scores[0::2], scores[1::2], strict=True)]
    return {**totals, "held_out_pairs": held_out, "held_out_accuracy": fmean(right) if right else None}


def _scores(learner: reward_model.RewardModel, groups: Sequence[Rows], micro_batch: int) -> list[float]:
    """Scores of all rows of the groups, before the bias."""
    rows = Rows([prompt for group in groups for prompt in group.prompts],
                [completion for group in groups for completion in group.completions])
    return learner.score_rows(rows, micro_batch)


def _preferences(data: Path, name: str) -> Path:
    path = data / f"preferences_{name}.jsonl"
    if not path.exists():
        found = ", ".join(sorted(file.stem.removeprefix("preferences_") for file in data.glob("preferences_*.jsonl")))
        raise UserError(f"task.reward.models: the task's data has no preferences '{name}', only {found or 'none'}")
    return path


def _pairs(
    tokenizer: PreTrainedTokenizerBase, rows: Iterable[dict[str, Any]], limit: int
) -> tuple[list[Rows], dict[str, int]]:
    """Pairs as they will be scored, chosen first, cut from the left to `limit` tokens; how many were cut, and left out.

    A pair of equal ids teaches nothing and is left out. Raises UserError when none remains.
    """
    pairs, cuts, equal = [], 0, 0
    for row in rows:
        sides = response_ids(tokenizer, [row["chosen"], row["rejected"]],
                             [row.get(f"{side}_truncated", False) for side in ("chosen", "rejected")])
        pair, cut = fitted(row["prompt_ids"], sides, limit)
        if pair.completions[0] == pair.completions[1]:
            equal += 1
        else:
            pairs.append(pair)
            cuts += cut
    if not pairs:
        raise UserError(f"reward model: of {equal} pairs none differs within {limit} tokens: raise "
                        "task.max_tokens_demonstration")
    return pairs, {"cut_pairs": cuts, "equal_pairs": equal}


def _references(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Demonstration], limit: int) -> list[Rows]:
    """Demonstrations in the form of the pairs, groups of one."""
    return [fitted(prompt_ids(tokenizer, row.prompt), response_ids(tokenizer, [row.completion]), limit)[0]
            for row in rows]
