"""The training jobs that stages run: pretrain a base model, train a policy. Reward models are in `preference`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from rlfamily import algorithms, rewards, tasks
from rlfamily.algorithms.settings import AlgorithmSettings
from rlfamily.errors import UserError
from rlfamily.examples import Demonstration, Example, read_demonstrations, read_examples
from rlfamily.models import Finetuning, ScratchModel, policy, reward_model, scratch, sharding
from rlfamily.models.batching import Rows
from rlfamily.records import read_jsonl
from rlfamily.rewards import Reward, bradley_terry
from rlfamily.rewards.noise import RandomReward
from rlfamily.rollout import SamplingParams
from rlfamily.rollout.clock import Clock, TimedReward
from rlfamily.rollout.collect import Group, collect, encode_completion, encode_prompt
from rlfamily.rollout.engines import Machine, following, open_pool
from rlfamily.rollout.settings import Drawing
from rlfamily.streams import epoch_order, prompts_seed, rollout_seed
from rlfamily.trainer.loop import Trainer
from rlfamily.trainer.recipe import Recipe
from rlfamily.trainer.record import record
from rlfamily.trainer.sources import FixedSource, RolloutSource, Source
from rlfamily.trainer.tracking import make_tracker


@dataclass(frozen=True)
class Place:
    """Where and how a job runs; nothing here changes a number. `work` survives crashes, `out` becomes the artifact.

    `notes` gathers what people must know of how it ran; it is part of the stage's summary.
    """

    key: str
    label: str
    work: Path
    out: Path
    hardware: dict[str, Any]
    progress: Callable[[int, int, str], None]
    notes: dict[str, str] = field(default_factory=dict)

    def accelerator(self) -> Accelerator:
        """CPU, one GPU, or the processes started together. Raises UserError when the GPU is missing."""
        cpu = self.hardware["kind"] == "cpu"
        if not cpu and not torch.cuda.is_available():
            raise UserError("hardware=gpu: no CUDA device is visible: use hardware=cpu, or check the driver")
        if cpu:
            torch.set_num_threads(1)
        return sharding.accelerator(cpu, self.hardware["sharding"])

    def machine(self, processes: int = 1) -> Machine:
        """The same place as an engine sees it."""
        return Machine(self.hardware, self.work, processes, self.progress)

    def train(self, trainer: Trainer, config: dict[str, Any]) -> dict[str, Any]:
        """Run the loop with records, checkpoints and mirror; returns its totals."""
        mode = self.hardware["wandb"] if trainer.accelerator.is_main_process else "off"
        tracker = make_tracker(mode, Path(self.hardware["wandb_folder"]), self.key, self.label, config)
        totals = record(trainer, self.work, self.out, tracker, self.progress, self.hardware["checkpoint_seconds"])
        return totals | self.notes


def pretrain(place: Place, data: Path, model: ScratchModel, settings: AlgorithmSettings, limit: int) -> dict[str, Any]:
    """Build the tokenizer and a random model, then fit the corpus with the supervised loss."""
    corpus = _first(read_demonstrations(data / "corpus.jsonl"), settings.prompts, "task.pretrain.lines", "corpus")
    accelerator = place.accelerator()
    tokenizer = scratch.train_tokenizer(json.loads((data / "vocabulary.json").read_text()))
    learner = policy.Policy(scratch.build_model(model, tokenizer), tokenizer, model.dtype, accelerator.device)
    learner.model.eval()
    source = FixedSource(encode(learner, corpus, limit), settings.batch_prompts, settings.epochs, model.seed,
                         learner.eos_id)
    trainer = Trainer(learner, None, source, Recipe.of(algorithms.get("sft"), settings, 1.0), 1.0,
                      place.hardware["micro_tokens"], accelerator, model.seed, 0)
    return place.train(trainer, settings.model_dump())


@dataclass(frozen=True)
class Inputs:
    """Folders a policy is trained from: `models` are those of the task's reward, by name.

    `pairs` and `reward` (a learned one in place of the task's own) are there only where the method asks for them.
    """

    data: Path
    policy: Path
    pairs: Path | None
    reward: Path | None
    models: Mapping[str, Path] = field(default_factory=dict)


def train_policy(
    place: Place, inputs: Inputs, name: str, settings: AlgorithmSettings, finetuning: Finetuning,
    task: dict[str, Any], rollout: Drawing | None, seed: int,
) -> dict[str, Any]:
    """Train with algorithm `name` from the policy in `inputs`, on the data its SOURCE names.

    `rollout` says what draws the responses; None for methods that draw none.
    """
    accelerator = place.accelerator()
    torch.manual_seed(seed)
    learner = sharding.load(inputs.policy, finetuning, accelerator, trainable=True)
    algorithm = algorithms.get(name)
    source = _source(place, inputs, learner, algorithm.SOURCE, settings, finetuning, task, rollout, seed, accelerator)
    wants_reference = "ref" in algorithms.needs(algorithm, settings) or settings.kl_ref_every > 0
    reference = _reference(inputs.policy, learner, finetuning, accelerator) if wants_reference else None
    # Demonstrations and pairs take the model's own distribution, rollouts the one they were drawn from.
    temperature = settings.sampling.temperature if rollout else 1.0
    least = task["min_new_tokens"] if rollout else 0
    trainer = Trainer(learner, reference, source, Recipe.of(algorithm, settings, finetuning.lr_multiplier), temperature,
                      place.hardware["micro_tokens"], accelerator, seed, least, rollout)
    return place.train(trainer, {"algorithm": name, "seed": seed, **settings.model_dump()})


def select_prompts(data: Path, count: int, seed: int, reuse: bool) -> list[Example]:
    """`count` training prompts at random; with `reuse`, pass after pass when there are fewer.

    Raises UserError when there are fewer and they may not be reused.
    """
    examples = read_examples(data / "train.jsonl")
    if count > len(examples) and not reuse:
        raise UserError(f"data: {count} prompts asked for, train split has {len(examples)}: lower algorithm.prompts or "
                        "task.prompt_fraction, keep more rows in the task's source, or set task.reuse_prompts=true")
    passes = -(-count // len(examples))
    chosen = [(turn, index) for turn in range(passes)
              for index in epoch_order(len(examples), turn, prompts_seed(seed))][:count]
    # A name of its own for each pass, so that a prompt's responses have a random stream of their own in each.
    return [examples[index] if turn == 0 else replace(examples[index], id=f"{examples[index].id}, pass {turn + 1}")
            for turn, index in chosen]


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


def encode(learner: policy.Policy | reward_model.RewardModel, rows: list[Demonstration], limit: int) -> list[Rows]:
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


def _reference(
    folder: Path, learner: policy.Policy, finetuning: Finetuning, accelerator: Accelerator
) -> policy.Policy:
    """The frozen initial policy: the adapted model with its adapters off, or a second copy of the weights."""
    return learner if learner.adapted else sharding.load(folder, finetuning, accelerator, trainable=False)


def _source(
    place: Place, inputs: Inputs, learner: policy.Policy, kind: str, settings: AlgorithmSettings,
    finetuning: Finetuning, task: dict[str, Any], rollout: Drawing | None, seed: int, accelerator: Accelerator,
) -> Source:
    count = scaled(settings.prompts, task["prompt_fraction"])
    if kind == "demonstrations":
        rows = _first(read_demonstrations(inputs.data / "demonstrations_train.jsonl"), count,
                      "algorithm.prompts (times task.prompt_fraction)", "demonstrations_train")
        return FixedSource(encode(learner, rows, task["max_tokens_demonstration"]), settings.batch_prompts,
                           settings.epochs, seed, learner.eos_id)
    if kind == "pairs":
        assert inputs.pairs is not None
        return FixedSource(read_pairs(inputs.pairs), settings.batch_prompts, settings.epochs, seed, learner.eos_id)
    assert rollout is not None
    reward = _training_reward(place, inputs, settings, finetuning, task, accelerator.device, seed)
    params = replace(sampling_params(task, settings.sampling.mode, "max_tokens_rollout"), logps=True,
                     temperature=settings.sampling.temperature)
    engine = following(learner, inputs.policy, rollout, place.machine(accelerator.num_processes),
                       params.max_total_tokens)
    # Processes that share an engine draw the same responses.
    shared = place.machine().vllm.shared if rollout.engine == "vllm" else 1
    mine, shares = accelerator.process_index // shared, accelerator.num_processes // shared

    def draw(examples: list[Example], epoch: int, clock: Clock) -> list[Group]:
        engine.refresh()
        groups = collect(engine, learner.tokenizer, TimedReward(reward, clock), examples[mine::shares],
                         settings.group_size, params,
                         lambda example: rollout_seed(seed, epoch, example.id))
        return _gather(groups, accelerator.num_processes, shared, len(examples))

    examples = select_prompts(inputs.data, count, seed, task["reuse_prompts"])
    return RolloutSource(examples, draw, settings.batch_prompts, settings.group_size, settings.epochs,
                         settings.resample_each_epoch, seed)


def _training_reward(
    place: Place, inputs: Inputs, settings: AlgorithmSettings, finetuning: Finetuning, task: dict[str, Any],
    device: torch.device, seed: int,
) -> Reward:
    """What the method maximises: the task's reward, a model fitted to its preferences, or noise."""
    micro_batch = place.hardware["micro_batch"]
    truth = task_reward(place, task, inputs.models, device)
    if settings.reward == "random":
        return RandomReward(truth, seed)
    if inputs.reward is None:
        return truth
    scorer = reward_model.load(inputs.reward, finetuning, device, trainable=False)
    return bradley_terry.LearnedReward(scorer, truth, micro_batch)


def task_reward(place: Place, task: dict[str, Any], models: Mapping[str, Path], device: torch.device) -> Reward:
    """The task's own reward; `models` holds the folder of each model it reads. Says where vLLM was no help."""
    def note(name: str, text: str) -> None:
        sys.stderr.write(f"reward {name}: {text}\n")  # the stage's log
        place.notes[f"reward_{name}"] = text

    processes = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    vllm = rewards.ClassifierEngine(open_pool(place.machine(processes)), note)
    config = rewards.get(task["reward"]["kind"]).Config.model_validate(task["reward"])
    return rewards.load(config, tasks.get(task["kind"]).score, models, device, place.hardware["micro_batch"], vllm)


def sampling_params(task: dict[str, Any], mode: str, limit: str) -> SamplingParams:
    """How responses to a task are drawn; `mode` is sample or greedy, `limit` the task's key for the total length."""
    return SamplingParams(mode == "greedy", 1.0, task[limit], task["min_new_tokens"])


def _gather(groups: list[Group], processes: int, shared: int, count: int) -> list[Group]:
    """All processes' groups in prompt order; `shared` neighbours drew the same, share p prompts p, p+shares, ..."""
    if processes == 1:
        return groups
    from accelerate.utils import gather_object

    shares: list[list[Group]] = gather_object([groups])[::shared]
    return [shares[index % len(shares)][index // len(shares)] for index in range(count)]
