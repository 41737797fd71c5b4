"""TRL's side of the race: its own trainers, driven by `train()`, one optimiser step for each order on stdin.

    .venv-peer/bin/python -m bench.peer.side CASE OPTIONS FOLDER ORDER

CASE is a bench.work.Case, OPTIONS what the trainer's config gets beyond what the work needs, ORDER the pairs' order,
all as JSON; FOLDER holds the model. An order of the race may hold `drawn`: completions to train on in place of own
ones, or `lengths`: how many tokens each completion must have, by prompt.
"""

from __future__ import annotations

import functools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import LogitsProcessor, PreTrainedTokenizerFast, TrainerCallback
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from bench import work
from bench.measure import machine, peak_mib
from bench.work import Case, Gate

TRAINERS = {"grpo": (GRPOConfig, GRPOTrainer), "rloo": (RLOOConfig, RLOOTrainer), "dpo": (DPOConfig, DPOTrainer)}


class OneStepAnOrder(TrainerCallback):
    """Holds the trainer before its first step and after each."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Everything is built: wait for the first order."""
        self.gate.wait()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Answer, and wait for the next order."""
        self.gate.next()


class Lengths(LogitsProcessor):
    """Ends each row at a given length, and not before: stop tokens are out of reach until the last place."""

    def __init__(self, lengths: list[int], prompt: int, new: int) -> None:
        self.lengths_N, self.prompt, self.new = torch.tensor(lengths), prompt, new

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores of the next token of each row."""
        place = input_ids.shape[1] - self.prompt + 1
        last_N = self.lengths_N == place
        scores[~last_N, work.STOP_IDS[0]:] = -torch.inf
        if place < self.new:
            scores[last_N, :work.STOP_IDS[0]] = -torch.inf
        return scores


def build_trainer(case: Case, options: dict[str, Any], model: Path, order: list[int], out: str) -> Any:
    """The trainer as its documentation constructs it: what the work needs, and `options`."""
    config_class, trainer_class = TRAINERS[case.method]
    needs = {
        "output_dir": out, "use_cpu": True, "max_steps": case.steps + 1, "learning_rate": work.LEARNING_RATE,
        "lr_scheduler_type": "constant", "adam_beta1": work.BETA1, "adam_beta2": work.BETA2,
        "weight_decay": work.WEIGHT_DECAY, "max_grad_norm": work.CLIP_NORM, "report_to": "none",
    }
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model)
    if case.method == "dpo":
        # The trainer joins the texts of prompt and response before it looks for tokens.
        pairs = [{"prompt": pair["prompt"], "chosen": f" {pair['chosen']}", "rejected": f" {pair['rejected']}"}
                 for pair in case.pair_texts()]
        config = config_class(**needs, per_device_train_batch_size=case.prompts, beta=work.DPO_BETA,
                              train_sampling_strategy="sequential", **options)
        return trainer_class(model=str(model), args=config, processing_class=tokenizer,
                             train_dataset=Dataset.from_list([pairs[index] for index in order]))
    config = config_class(**needs, per_device_train_batch_size=case.prompts * case.group, num_generations=case.group,
                          max_completion_length=case.new, beta=0.0, epsilon=work.RATIO_CLIP, **options)
    return trainer_class(model=str(model), args=config, processing_class=tokenizer, reward_funcs=rewards,
                         train_dataset=Dataset.from_list([{"prompt": text} for text in case.prompt_texts()]))


def rewards(completions: list[str], **_: Any) -> list[float]:
    """The reward of `bench.work`, as the trainers want it."""
    return [work.reward(text) for text in completions]


def follow_orders(trainer: Any, case: Case, gate: Gate) -> None:
    """Let orders replace what is drawn, or say how long it must be; and say the ids drawn."""
    own, generate = trainer._generate_single_turn, trainer.model.generate
    text = trainer.processing_class.decode

    def single_turn(prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> Any:
        drawn, bare = gate.order.get("drawn"), case.method == "rloo"  # GRPO's has log-probs beside the ids
        if drawn is None:
            found = own(prompt_ids, *args, **kwargs)
            rows = found if bare else found[0]
        else:
            rows = _in_turn(drawn, map(text, prompt_ids))
            found = rows if bare else (rows, None)
        gate.facts["tokens"] = sum(map(len, rows))
        return found

    def bounded(*args: Any, **kwargs: Any) -> Any:
        lengths = gate.order.get("lengths")
        if lengths is not None:
            wanted = _in_turn(lengths, map(text, kwargs["input_ids"].tolist()))
            kwargs["logits_processor"] = [Lengths(wanted, case.prompt, case.new)]
        return generate(*args, **kwargs)

    trainer._generate_single_turn, trainer.model.generate = single_turn, bounded


def _in_turn(by_prompt: dict[str, list[Any]], prompts: Any) -> list[Any]:
    """What belongs to each row: a prompt's first row gets its first item, and so on."""
    turns = {prompt: iter(items) for prompt, items in by_prompt.items()}
    return [next(turns[prompt]) for prompt in prompts]


def book(gate: Gate, owner: Any, method: str, phase: str, keep: str = "") -> None:
    """Book the calls of a method under a phase; with `keep`, what it returns becomes that fact of the step."""
    call = getattr(owner, method)

    @functools.wraps(call)
    def booked(*args: Any, **kwargs: Any) -> Any:
        with gate.phase(phase):
            found = call(*args, **kwargs)
        if keep:
            gate.facts[keep] = float(found)
        return found

    setattr(owner, method, booked)


def book_phases(gate: Gate, trainer: Any, method: str) -> None:
    """The same phases as on our side; the rest of `train()` is "other"."""
    if method == "dpo":
        book(gate, trainer, "_compute_loss", "log-probs")
        if trainer.ref_model is not None:
            book(gate, trainer.ref_model, "forward", "scoring")
    else:
        book(gate, trainer, "_generate", "generation")
        book(gate, trainer, "_calculate_rewards", "scoring")
        book(gate, trainer, "_get_per_token_logps_and_entropies", "log-probs")
    book(gate, trainer.accelerator, "backward", "update")
    book(gate, trainer.accelerator, "clip_grad_norm_", "update", keep="grad_norm")
    book(gate, trainer, "training_step", "other", keep="loss")
    book(gate, torch.optim.AdamW, "step", "update")


def main() -> None:
    """Build, say what was built, then train a step for each order."""
    case, options, model = Case(**json.loads(sys.argv[1])), json.loads(sys.argv[2]), Path(sys.argv[3])
    gate = Gate()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as out:
        trainer = build_trainer(case, options, model, json.loads(sys.argv[4]), out)
        if case.method != "dpo":
            follow_orders(trainer, case, gate)
        book_phases(gate, trainer, case.method)
        work.note_gradients(gate)
        trainer.add_callback(OneStepAnOrder(gate))
        gate.say(machine=machine("trl", "accelerate"), base_mib=peak_mib(),
                 parameters=sum(weight.numel() for weight in trainer.model.parameters()))
        trainer.train()


if __name__ == "__main__":
    main()
