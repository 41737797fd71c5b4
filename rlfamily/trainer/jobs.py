"""The training jobs that stages run: pretrain a base model, train a policy. Reward models are in `preference`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from rlfamily import algorithms, curricula
from rlfamily.algorithms.settings import AlgorithmSettings
from rlfamily.curricula import Prompts
from rlfamily.errors import UserError
from rlfamily.examples import Demonstration, Example, read_demonstrations
from rlfamily.models import Finetuning, ScratchModel, logged, policy, reward_model, scratch, sharding
from rlfamily.models.batching import Rows
from rlfamily.place import Place
from rlfamily.records import read_jsonl
from rlfamily.rewards import Reward, bradley_terry
from rlfamily.rewards.noise import RandomReward
from rlfamily.rollout.clock import Clock, TimedReward
from rlfamily.rollout.collect import (
    Group,
    collect,
    encode_completion,
    encode_prompt,
    sampling_params,
    training_prompts,
)
from rlfamily.rollout.engines import following
from rlfamily.rollout.rewarding import task_reward
from rlfamily.rollout.settings import Drawing
from rlfamily.streams import epoch_order, rollout_seed, shuffle_seed
from rlfamily.tasks import Lesson
from rlfamily.trainer.loop import Trainer
from rlfamily.trainer.recipe import Recipe
from rlfamily.trainer.record import record
from rlfamily.trainer.sources import FixedSource, LoggedSource, RolloutSource, Source
from rlfamily.trainer.tracking import Mirrored, make_tracker


def fit(place: Place, trainer: Trainer, config: dict[str, Any]) -> dict[str, Any]:
    """Run the loop with records, checkpoints and mirror (which shows `config`); returns its totals."""
    mode = place.hardware.wandb if trainer.accelerator.is_main_process else "off"
    tracker = make_tracker(mode, Mirrored(
        Path(place.hardware.wandb_folder), place.key, place.label, config, place.hardware.wandb_names))
    totals = record(trainer, place.work, place.out, tracker, place.progress, place.hardware.checkpoint_seconds)
    return totals | place.notes


def pretrain(place: Place, data: Path, model: ScratchModel, settings: AlgorithmSettings, limit: int) -> dict[str, Any]:
    """Build the tokenizer and a random model, then fit the corpus with the supervised loss."""
    corpus = _first(read_demonstrations(data / "corpus.jsonl"), settings.prompts, "task.pretrain.lines", "corpus")
    accelerator = sharding.accelerator(place.hardware)
    tokenizer = scratch.tokenizer_of(data)
    learner = policy.Policy(scratch.build_model(model, tokenizer), tokenizer, model.dtype, accelerator.device)
    learner.model.eval()
    source = FixedSource(encode(learner, corpus, limit), settings.batch_prompts, settings.epochs, model.seed,
                         learner.stop_ids)
    trainer = Trainer(learner, None, source, Recipe.of(algorithms.get("sft"), settings, 1.0), 1.0,
                      place.hardware.micro_tokens, accelerator, model.seed, 0)
    return fit(place, trainer, settings.model_dump())


@dataclass(frozen=True)
class Inputs:
    """Folders a policy is trained from: `models` are artifacts of the models of the task's reward, by name.

    `pairs`, `fitted` (a learned reward in place of the task's own) and `reference` (logged responses with the log-probs
    of the initial policy) are there only where the method asks for them.
    """

    data: Path
    policy: Path
    pairs: Path | None
    fitted: Path | None
    models: Mapping[str, Path] = field(default_factory=dict)
    reference: Path | None = None


def train_policy(
    place: Place, inputs: Inputs, name: str, settings: AlgorithmSettings, finetuning: Finetuning, lesson: Lesson,
    rollout: Drawing | None, seed: int,
) -> dict[str, Any]:
    """Train with algorithm `name` from the policy in `inputs`, on the data its SOURCE names.

    `rollout` says what draws the responses; None for methods that draw none.
    """
    accelerator = sharding.accelerator(place.hardware)
    torch.manual_seed(seed)
    learner = sharding.load(inputs.policy, finetuning, accelerator, trainable=True)
    algorithm = algorithms.get(name)
    source: Source
    if rollout is not None:
        source = _rollouts(place, inputs, learner, settings, finetuning, lesson, rollout, seed, accelerator)
    elif inputs.reference is not None:
        source = _logged(inputs.reference, settings, lesson, seed, learner.stop_ids)
    else:
        groups = _demonstrations(inputs.data, learner, lesson) if inputs.pairs is None else read_pairs(inputs.pairs)
        source = FixedSource(groups, settings.batch_prompts, settings.epochs, seed, learner.stop_ids)
    reference = None
    if _asks_reference(algorithms.needs(algorithm, settings), settings, known=inputs.reference is not None):
        reference = _initial(inputs.policy, learner, finetuning, accelerator)
    # Demonstrations and pairs take the model's own distribution, rollouts the one they were drawn from.
    temperature = settings.sampling.temperature if rollout else 1.0
    least = lesson.limits.min_new_tokens if rollout else 0
    trainer = Trainer(learner, reference, source, Recipe.of(algorithm, settings, finetuning.lr_multiplier), temperature,
                      place.hardware.micro_tokens, accelerator, seed, least, rollout, settings.sampling.whole)
    shown = {"algorithm": settings, "model": finetuning, "lesson": lesson, "rollout": rollout}
    config = {what: one.model_dump(mode="json") for what, one in shown.items() if one is not None}
    return fit(place, trainer, {"seed": seed} | config)


def _first(rows: list[Demonstration], count: int, key: str, split: str) -> list[Demonstration]:
    if count > len(rows):
        raise UserError(f"data: {key} asks for {count} rows, {split} has {len(rows)}: lower it, or keep more rows in "
                        "the task's source")
    return rows[:count]


def _demonstrations(data: Path, learner: policy.Policy, lesson: Lesson) -> list[Rows]:
    rows = _first(read_demonstrations(data / "demonstrations_train.jsonl"), lesson.prompts,
                  "algorithm.prompts (times task.prompt_fraction)", "demonstrations_train")
    return encode(learner, rows, lesson.limits.max_tokens)


def read_pairs(folder: Path) -> list[Rows]:
    """Preference pairs as groups of two, chosen first."""
    return [Rows([row["prompt_ids"]] * 2, [row["chosen_ids"], row["rejected_ids"]])
            for row in read_jsonl(folder / "pairs.jsonl")]


def encode(learner: policy.Policy, rows: list[Demonstration], limit: int) -> list[Rows]:
    """Groups of one; a demonstration longer than `limit` tokens loses its tail (and with it its EOS).

    Raises UserError when no prompt is short enough to leave room for a completion.
    """
    encoded = []
    for row in rows:
        prompt = encode_prompt(learner.tokenizer, row.prompt)
        completion = encode_completion(learner.tokenizer, row.completion, max(0, limit - len(prompt)))
        if completion:
            encoded.append(Rows([prompt], [completion]))
    if not encoded:
        raise UserError(f"data: no prompt of {len(rows)} demonstrations is shorter than {limit} tokens: "
                        "raise task.max_tokens_demonstration")
    return encoded


def _logged(
    folder: Path, settings: AlgorithmSettings, lesson: Lesson, seed: int, ends: Sequence[int]
) -> LoggedSource:
    """Standardised by the training rows. Raises UserError when there are fewer prompts than the run asks for."""
    rows = logged.load(folder / "train.safetensors")
    wanted = min(lesson.prompts, len(rows)) if lesson.fewer_prompts == "take" else lesson.prompts
    if wanted > len(rows):
        raise UserError(f"data: algorithm.prompts (times task.prompt_fraction) asks for {wanted} prompts, the log has "
                        f"{len(rows)}: lower it, or set task.fewer_prompts=take")
    rows.standardise()
    if settings.reward == "shuffled":
        rows.rewards_N = rows.rewards_N[list(epoch_order(len(rows.rewards_N), 0, shuffle_seed(seed)))]
    return LoggedSource(rows, wanted, settings.batch_prompts, settings.epochs, seed, ends)


def _asks_reference(needs: frozenset[str], settings: AlgorithmSettings, known: bool) -> bool:
    """Whether the initial policy has to be at hand; log-probs of logged rows are `known`, of mismatched ones never."""
    return ("ref" in needs and (not known or "mismatched" in needs)) or (settings.kl_ref_every > 0 and not known)


def _initial(
    folder: Path, learner: policy.Policy, finetuning: Finetuning, accelerator: Accelerator
) -> policy.Policy:
    """The frozen initial policy: the adapted model with its adapters off, or a second copy of the weights."""
    return learner if learner.adapted else sharding.load(folder, finetuning, accelerator, trainable=False)


def _rollouts(
    place: Place, inputs: Inputs, learner: policy.Policy, settings: AlgorithmSettings, finetuning: Finetuning,
    lesson: Lesson, rollout: Drawing, seed: int, accelerator: Accelerator,
) -> RolloutSource:
    reward = _training_reward(place, inputs, settings, finetuning, lesson, accelerator.device, seed)
    params = replace(sampling_params(settings.sampling.mode, settings.sampling, lesson.limits), logps=True)
    engine = following(learner, inputs.policy, rollout, place, params.max_total_tokens)
    # Processes that share an engine draw the same responses.
    shared = place.hardware.vllm.shared if rollout.engine == "vllm" else 1
    mine, shares = accelerator.process_index // shared, accelerator.num_processes // shared

    def draw(examples: list[Example], epoch: int, clock: Clock) -> list[Group]:
        groups = collect(engine, learner.tokenizer, TimedReward(reward, clock), examples[mine::shares],
                         settings.group_size, params, lambda example: rollout_seed(seed, epoch, example.id))
        return _gather(groups, accelerator.num_processes, shared, len(examples))

    examples = training_prompts(place, inputs.data, lesson, learner.tokenizer, seed)
    prompts = Prompts(len(examples), settings.batch_prompts, seed)
    rule = curricula.get(settings.curriculum.kind).start(settings.curriculum, prompts)
    return RolloutSource(examples, engine.refresh, draw, prompts, rule, settings.group_size, settings.epochs,
                         settings.resample_each_epoch)


def _training_reward(
    place: Place, inputs: Inputs, settings: AlgorithmSettings, finetuning: Finetuning, lesson: Lesson,
    device: torch.device, seed: int,
) -> Reward:
    """What the method maximises: the task's reward, a model fitted to its preferences, or noise."""
    assert lesson.reward is not None
    truth = task_reward(place, lesson.task, lesson.reward, inputs.models, device)
    if settings.reward == "random":
        return RandomReward(truth, seed)
    if inputs.fitted is None:
        return truth
    scorer = reward_model.load(inputs.fitted, finetuning, device, trainable=False)
    return bradley_terry.LearnedReward(scorer, truth, place.hardware.micro_batch)


def _gather(groups: list[Group], processes: int, shared: int, count: int) -> list[Group]:
    """All processes' groups in prompt order; `shared` neighbours drew the same, share p prompts p, p+shares, ..."""
    if processes == 1:
        return groups
    from accelerate.utils import gather_object

    shares: list[list[Group]] = gather_object([groups])[::shared]
    return [shares[index % len(shares)][index // len(shares)] for index in range(count)]
