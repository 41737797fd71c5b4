"""The training jobs that stages run: pretrain a base model, train a policy, train a reward model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from accelerate import Accelerator

from rlfamily import algorithms, tasks
from rlfamily.algorithms.settings import AlgorithmSettings, RewardModelSettings
from rlfamily.errors import UserError
from rlfamily.models import Finetuning, ScratchModel, policy, reward_model, scratch
from rlfamily.models.batching import Rows
from rlfamily.records import read_jsonl
from rlfamily.rewards import Reward, bradley_terry
from rlfamily.rewards.verifiable import Verifiable
from rlfamily.rollout import SamplingParams, stream_seed
from rlfamily.rollout.collect import Group, collect, encode_completion, encode_prompt
from rlfamily.rollout.torch_engine import TorchEngine
from rlfamily.tasks import Demonstration, Example, read_demonstrations, read_examples
from rlfamily.trainer.clock import Clock, TimedReward
from rlfamily.trainer.loop import Trainer
from rlfamily.trainer.run import run
from rlfamily.trainer.sources import FixedSource, RolloutSource, Source, epoch_order
from rlfamily.trainer.tracking import make_tracker

HELD_OUT_SHARE = 10  # one preference pair in this many tests the reward model instead of training it


@dataclass(frozen=True)
class Place:
    """Where and how a job runs; nothing here changes a number. `work` survives crashes, `out` becomes the artifact."""

    key: str
    label: str
    work: Path
    out: Path
    hardware: dict[str, Any]
    progress: Callable[[int, int, str], None]

    def accelerator(self) -> Accelerator:
        """CPU, one GPU, or the processes started together. Raises UserError when the GPU is missing."""
        cpu = self.hardware["kind"] == "cpu"
        if not cpu and not torch.cuda.is_available():
            raise UserError("hardware=gpu: no CUDA device is visible: use hardware=cpu, or check the driver")
        if cpu:
            torch.set_num_threads(1)
        return Accelerator(cpu=cpu)

    def train(self, trainer: Trainer, config: dict[str, Any]) -> dict[str, Any]:
        """Run the loop with records, checkpoints and mirror; returns its totals."""
        mode = self.hardware["wandb"] if trainer.accelerator.is_main_process else "off"
        tracker = make_tracker(mode, Path(self.hardware["wandb_folder"]), self.key, self.label, config)
        return run(trainer, self.work, self.out, tracker, self.progress, self.hardware["checkpoint_seconds"])


def pretrain(place: Place, data: Path, model: ScratchModel, settings: AlgorithmSettings, limit: int) -> dict[str, Any]:
    """Build the tokenizer and a random model, then fit the corpus with the supervised loss."""
    corpus = _first(read_demonstrations(data / "corpus.jsonl"), settings.prompts, "model.pretrain.prompts",
                    "corpus")
    accelerator = place.accelerator()
    tokenizer = scratch.train_tokenizer((data / "vocabulary.txt").read_text().splitlines())
    learner = policy.Policy(scratch.build_model(model, tokenizer), tokenizer, model.dtype, accelerator.device)
    learner.model.eval()
    source = FixedSource(_encode(learner, corpus, limit), settings.batch_prompts, settings.epochs, model.seed,
                         learner.eos_id)
    trainer = Trainer(learner, None, source, algorithms.get("sft"), settings, 1.0, 1.0,
                      place.hardware["micro_batch"], accelerator)
    return place.train(trainer, settings.model_dump())


@dataclass(frozen=True)
class Inputs:
    """Folders a policy is trained from; `pairs` and `reward` only where the method asks for them."""

    data: Path
    policy: Path
    pairs: Path | None
    reward: Path | None


def train_policy(
    place: Place, inputs: Inputs, name: str, settings: AlgorithmSettings, finetuning: Finetuning,
    task: dict[str, Any], seed: int,
) -> dict[str, Any]:
    """Train with algorithm `name` from the policy in `inputs`, on the data its SOURCE names."""
    accelerator = place.accelerator()
    torch.manual_seed(seed)
    learner = policy.load(inputs.policy, finetuning, accelerator.device, trainable=True)
    algorithm = algorithms.get(name)
    source = _source(place, inputs, learner, algorithm.SOURCE, settings, finetuning, task, seed, accelerator)
    wants_reference = "ref" in algorithms.needs(algorithm, settings) or settings.kl_ref_every > 0
    reference = _reference(inputs.policy, learner, finetuning) if wants_reference else None
    temperature = settings.sampling.temperature if algorithm.SOURCE == "rollouts" else 1.0
    trainer = Trainer(learner, reference, source, algorithm, settings, temperature, finetuning.lr_multiplier,
                      place.hardware["micro_batch"], accelerator)
    return place.train(trainer, {"algorithm": name, "seed": seed, **settings.model_dump()})


def train_reward_model(
    place: Place, data: Path, start: Path, pairs: Path, settings: RewardModelSettings, finetuning: Finetuning,
    limit: int, seed: int,
) -> dict[str, Any]:
    """Fit a Bradley-Terry model to nine tenths of the preference pairs, then centre it on the demonstrations.

    The totals say how many of the held-out pairs it orders as the verifier does.
    """
    accelerator = place.accelerator()
    torch.manual_seed(seed)
    learner = reward_model.load(start, finetuning, accelerator.device, trainable=True)
    groups = read_pairs(pairs)
    held_out = len(groups) // HELD_OUT_SHARE
    source = FixedSource(groups[held_out:], settings.batch_pairs, settings.epochs, seed, learner.eos_id)
    trainer = Trainer(learner, None, source, bradley_terry, settings, 1.0, finetuning.lr_multiplier,
                      place.hardware["micro_batch"], accelerator)
    totals = place.train(trainer, settings.model_dump())
    if not accelerator.is_main_process:
        return totals
    demonstrations = read_demonstrations(data / "demonstrations_validation.jsonl")
    learner.bias = fmean(_scores(learner, _encode(learner, demonstrations, limit), place.hardware["micro_batch"]))
    learner.save(place.out / "model")
    scores = _scores(learner, groups[:held_out], place.hardware["micro_batch"])
    right = [chosen > rejected for chosen, rejected in zip(scores[0::2], scores[1::2], strict=True)]
    return {**totals, "held_out_pairs": held_out, "held_out_accuracy": fmean(right) if right else None}


def _scores(learner: reward_model.RewardModel, groups: list[Rows], micro_batch: int) -> list[float]:
    """Scores of all rows of the groups, before the bias."""
    rows = Rows([prompt for group in groups for prompt in group.prompts],
                [completion for group in groups for completion in group.completions])
    return learner.score_rows(rows, micro_batch)


def select_prompts(data: Path, count: int, seed: int) -> list[Example]:
    """`count` training puzzles at random. Raises UserError when there are fewer."""
    examples = read_examples(data / "train.jsonl")
    if count > len(examples):
        raise UserError(f"data: {count} prompts asked for, train split has {len(examples)}: "
                        "lower algorithm.prompts or task.prompt_fraction, or keep more rows in the task's source")
    return [examples[index] for index in epoch_order(len(examples), 0, stream_seed(seed, "prompts"))[:count]]


def _first(rows: list[Demonstration], count: int, key: str, split: str) -> list[Demonstration]:
    if count > len(rows):
        raise UserError(f"data: {key} asks for {count} rows, {split} has {len(rows)}: lower it, or keep more rows in "
                        "the task's source")
    return rows[:count]


def scaled(prompts: int, fraction: float) -> int:
    """The number of prompts a run really takes: the method's sample size times the task's fraction, at least 1."""
    return max(1, round(prompts * fraction))


def read_pairs(folder: Path) -> list[Rows]:
    """Preference pairs as groups of two, chosen first."""
    return [Rows([row["prompt_ids"]] * 2, [row["chosen_ids"], row["rejected_ids"]])
            for row in read_jsonl(folder / "pairs.jsonl")]


def _encode(learner: policy.Policy | reward_model.RewardModel, rows: list[Demonstration], limit: int) -> list[Rows]:
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


def _reference(folder: Path, learner: policy.Policy, finetuning: Finetuning) -> policy.Policy:
    """The frozen initial policy: the adapted model with its adapters off, or a second copy of the weights."""
    return learner if learner.adapted else policy.load(folder, finetuning, learner.device, trainable=False)


def _source(
    place: Place, inputs: Inputs, learner: policy.Policy, kind: str, settings: AlgorithmSettings,
    finetuning: Finetuning, task: dict[str, Any], seed: int, accelerator: Accelerator,
) -> Source:
    count = scaled(settings.prompts, task["prompt_fraction"])
    if kind == "demonstrations":
        rows = _first(read_demonstrations(inputs.data / "demonstrations_train.jsonl"), count,
                      "algorithm.prompts (times task.prompt_fraction)", "demonstrations_train")
        return FixedSource(_encode(learner, rows, task["max_tokens_demonstration"]), settings.batch_prompts,
                           settings.epochs, seed, learner.eos_id)
    if kind == "pairs":
        assert inputs.pairs is not None
        return FixedSource(read_pairs(inputs.pairs), settings.batch_prompts, settings.epochs, seed, learner.eos_id)
    reward: Reward = Verifiable(tasks.get(task["kind"]))
    if inputs.reward is not None:
        scorer = reward_model.load(inputs.reward, finetuning, accelerator.device, trainable=False)
        reward = bradley_terry.LearnedReward(scorer, reward, place.hardware["micro_batch"])
    engine = TorchEngine(learner, place.hardware["rollout_batch"])
    sampling = settings.sampling
    params = SamplingParams(sampling.mode == "greedy", sampling.temperature, task["max_tokens_rollout"])

    def draw(examples: list[Example], epoch: int, clock: Clock) -> list[Group]:
        mine = accelerator.process_index, accelerator.num_processes
        groups = collect(engine, learner.tokenizer, TimedReward(reward, clock), examples[mine[0]::mine[1]],
                         settings.group_size, params,
                         lambda example, k: stream_seed(seed, "rollout", epoch, example.id, k))
        return _gather(groups, mine[1], len(examples))

    return RolloutSource(select_prompts(inputs.data, count, seed), draw, settings.batch_prompts, settings.group_size,
                         settings.epochs, settings.resample_each_epoch, seed)


def _gather(groups: list[Group], processes: int, count: int) -> list[Group]:
    """All processes' groups in prompt order; process p drew prompts p, p+processes, ..."""
    if processes == 1:
        return groups
    from accelerate.utils import gather_object

    shares: list[list[Group]] = gather_object([groups])
    return [shares[index % processes][index // processes] for index in range(count)]
