"""Our side of the race: the trainer, source and engine that every run uses, one step for each order on stdin.

    python -m bench.ours CASE FOLDER        CASE: a bench.work.Case as JSON; FOLDER: for the model and the run's files
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import Accelerator

from bench import work
from bench.measure import machine, peak_mib
from bench.work import Case, Gate
from rlfamily import algorithms
from rlfamily.config import algorithm_settings, build
from rlfamily.curricula import Prompts, in_order
from rlfamily.examples import Example
from rlfamily.hardware import Hardware
from rlfamily.models import Finetuning, ScratchShape, policy, scratch
from rlfamily.models.batching import Rows
from rlfamily.place import alone
from rlfamily.rewards import RewardParts
from rlfamily.rollout import SamplingParams, clock
from rlfamily.rollout.collect import Group, collect, encode_completion, encode_prompt
from rlfamily.rollout.engines import following
from rlfamily.rollout.settings import Drawing
from rlfamily.streams import epoch_order, rollout_seed
from rlfamily.trainer.loop import StepRecord, Trainer
from rlfamily.trainer.recipe import Recipe
from rlfamily.trainer.record import record
from rlfamily.trainer.sources import FixedSource, RolloutSource, Source

SHAPES = {"tiny": (32, 64, 2, 4), "0.8M": (128, 384, 4, 4), "12M": (384, 1024, 8, 6)}  # width, inner, layers, heads
PHASES = {"seconds_generate": "generation", "seconds_reward": "scoring", "seconds_forward": "log-probs",
          "seconds_update": "update"}


def save_model(case: Case, folder: Path) -> None:
    """The model both sides load, in the hub's format: a Qwen2 with random weights, and a tokenizer of one word a token.

    Rollouts must not end by themselves: their end token lies outside the model's vocabulary. In cases with early stops
    the generation settings name the stop tokens.
    """
    width, inner, layers, heads = SHAPES[case.size]
    tokenizer = scratch.train_tokenizer(map(str, range(work.WORDS)))
    model: Any = scratch.build_model(ScratchShape(
        architecture="qwen2", hidden_size=width, intermediate_size=inner, layers=layers, heads=heads, kv_heads=2,
        max_positions=512, initializer_range=0.02, seed=0), tokenizer)
    if case.method != "dpo":
        tokenizer.add_special_tokens({"eos_token": "<never>"})
        model.config.eos_token_id = None
        model.generation_config.eos_token_id = work.STOP_IDS if case.stops else None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


class EvenWords:
    """The reward of `bench.work`, as the trainer wants it."""

    def score(
        self, examples: Sequence[Example], responses: Sequence[str], truncated: Sequence[bool] = ()
    ) -> list[RewardParts]:
        """Score each response."""
        return [RewardParts(work.reward(response), {}) for response in responses]


def settings_of(case: Case) -> Any:
    """Our shipped settings with those of the work. TRL's own loss is matched by settings both sides have."""
    optimizer = {"lr": work.LEARNING_RATE, "beta1": work.BETA1, "beta2": work.BETA2, "clip_norm": work.CLIP_NORM,
                 "weight_decay": work.WEIGHT_DECAY, "schedule": "constant", "warmup_steps": 0}
    shared = {"prompts": case.prompts, "batch_prompts": case.prompts, "kl_ref_every": 0, "mask_truncated": False,
              "inner_updates": 1, "optimizer": optimizer,
              "sampling": {"mode": "sample", "temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0,
                           "no_repeat_ngram": 0}}
    no_kl = {"coef": 0.0, "form": "k3", "place": "loss"}
    own: dict[str, dict[str, Any]] = {
        "grpo": {"group_size": case.group, "epochs": case.steps, "kl": no_kl, "scale_rewards": "group",
                 "reduction": "token_mean", "clip": work.RATIO_CLIP},
        "rloo": {"group_size": case.group, "epochs": case.steps, "kl": no_kl, "ratio": "sequence",
                 "clip": work.RATIO_CLIP},
        "dpo": {"group_size": 2, "epochs": 1, "beta": work.DPO_BETA},
    }
    return algorithm_settings(case.method, **shared, **own[case.method])


def build_trainer(case: Case, folder: Path, gate: Gate) -> Trainer:
    """A trainer as `rlfamily.trainer.jobs` builds it, from the saved model."""
    torch.set_num_threads(1)
    config = build(["hardware=cpu", "model=qwen2_tiny", f"model.dtype={case.dtype}", "model.lr_multiplier=1.0"])
    finetuning = Finetuning.model_validate({name: getattr(config.model, name) for name in Finetuning.model_fields})
    hardware, settings = config.hardware, settings_of(case)
    accelerator = Accelerator(cpu=True)
    learner = policy.load(folder, finetuning, accelerator.device, trainable=True)
    rollout = None if case.method == "dpo" else Drawing(engine="torch", importance_cap=None)
    source = _pairs(case, learner) if rollout is None else _rollouts(case, learner, folder, settings, rollout, hardware,
                                                                     gate)
    reference = policy.load(folder, finetuning, accelerator.device, trainable=False) if case.method == "dpo" else None
    recipe = Recipe.of(algorithms.get(case.method), settings, finetuning.lr_multiplier)
    return Trainer(learner, reference, source, recipe, 1.0,
                   hardware.micro_tokens, accelerator, 0, 0, rollout)


def _rollouts(case: Case, learner: policy.Policy, folder: Path, settings: Any, rollout: Drawing,
              hardware: Hardware, gate: Gate) -> Source:
    stops = tuple(work.STOP_IDS) if case.stops else ()
    params = SamplingParams(False, 1.0, case.prompt + case.new, stop_ids=stops, logps=True)
    engine = following(learner, folder, rollout, alone(folder, hardware),
                       params.max_total_tokens)

    def draw(examples: list[Example], epoch: int, phases: clock.Clock) -> list[Group]:
        groups = collect(engine, learner.tokenizer, clock.TimedReward(EvenWords(), phases), examples, case.group,
                         params, lambda example: rollout_seed(0, epoch, example.id))
        gate.facts["drawn"] = {group.example.prompt: [row.ids for row in group.completions] for group in groups}
        return groups

    examples = [Example(f"train-{index}", text, {}) for index, text in enumerate(case.prompt_texts())]
    prompts = Prompts(len(examples), case.prompts, 0)
    rule = in_order.start(in_order.Config(kind="in_order"), prompts)
    return RolloutSource(examples, engine.refresh, draw, prompts, rule, case.group, case.steps, True)


def _pairs(case: Case, learner: policy.Policy) -> Source:
    def tokens(pair: dict[str, str]) -> Rows:
        sides = [encode_completion(learner.tokenizer, pair[name], case.new) for name in ("chosen", "rejected")]
        return Rows([encode_prompt(learner.tokenizer, pair["prompt"])] * 2, sides)

    return FixedSource(list(map(tokens, case.pair_texts())), case.prompts, 1, 0, (learner.eos_id,))


class GateTracker:
    """Hands the record of a step to the gate, as a tracker of experiments would get it."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def log(self, record: StepRecord) -> None:
        """Loss, gradient norm, tokens and CPU seconds by phase."""
        self.gate.facts |= {name: record.metrics[name] for name in ("loss", "grad_norm", "tokens")}
        self.gate.facts["phases"] = {PHASES.get(name, name): seconds for name, seconds in record.timings.items()
                                     if name.startswith("seconds_")}

    def finish(self, metrics: list[dict[str, Any]]) -> None:
        """Never comes: the race ends first."""


def main() -> None:
    """Build, say what was built, then train a step for each order."""
    case, folder, gate = Case(**json.loads(sys.argv[1])), Path(sys.argv[2]), Gate()
    model = folder / "model"
    if not model.exists():
        save_model(case, model)
    # The laps of a step in CPU seconds.
    clock.time = SimpleNamespace(  # type: ignore[attr-defined, assignment]
        perf_counter=time.process_time, process_time=time.process_time)
    trainer = build_trainer(case, model, gate)
    work.note_gradients(gate)
    pairs = len(trainer.source.groups) if isinstance(trainer.source, FixedSource) else 0
    gate.say(machine=machine(), parameters=sum(weight.numel() for weight in trainer.weights), base_mib=peak_mib(),
             order=epoch_order(pairs, 0, 0))
    gate.wait()
    record(trainer, folder / "ours", folder / "ours", GateTracker(gate), lambda step, total, note: gate.next(), 1e9)


if __name__ == "__main__":
    main()
