"""TRL's GRPO on any device: the wall seconds of whole steps, and what its first one computes on given rows.

    .venv-peer/bin/python -m bench.peer.whole_steps < JOB

JOB is JSON: `folder` of a model, `prompts` as texts, `rows` of token ids for the first step, `copies`, `steps`, `rate`,
`bf16`, `cpu`, and `options` for the trainer. The last line printed is JSON as well.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerFast, TrainerCallback
from trl import GRPOConfig, GRPOTrainer


class Watch(TrainerCallback):
    """Seconds of every optimiser step, generation included; the device is waited for at both ends."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.start = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start."""
        self.start = self._now()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Stop."""
        self.seconds.append(self._now() - self.start)

    def _now(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()


def rewards(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """That of bench.training: the share of even token ids."""
    return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]


def main() -> None:
    """Train on the given rows once, then on own ones; print what was found."""
    job = json.load(sys.stdin)
    rows, watch = job["rows"], Watch()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(job["folder"])
    with tempfile.TemporaryDirectory() as out:
        config = GRPOConfig(
            output_dir=out, use_cpu=job["cpu"], bf16=job["bf16"], gradient_checkpointing=False, max_steps=job["steps"],
            learning_rate=job["rate"], lr_scheduler_type="constant", max_grad_norm=1.0, weight_decay=0.0, beta=0.0,
            per_device_train_batch_size=len(rows), num_generations=job["copies"], max_completion_length=len(rows[0]),
            loss_type="bnpo", shuffle_dataset=False, generation_kwargs={"min_new_tokens": len(rows[0])},
            report_to="none", logging_steps=1, disable_tqdm=True, save_strategy="no",
            model_init_kwargs={"dtype": "float32"}, **job["options"])
        trainer = GRPOTrainer(
            model=job["folder"], args=config, processing_class=tokenizer, reward_funcs=rewards,
            train_dataset=Dataset.from_list([{"prompt": text} for text in job["prompts"]] * job["steps"]),
            callbacks=[watch])
        own, given, drawn = trainer._generate_single_turn, iter([rows]), []

        def single_turn(prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> Any:
            first = next(given, None)
            found = own(prompt_ids, *args, **kwargs) if first is None else (first, None)
            drawn.append(sum(map(len, found[0])))
            return found

        trainer._generate_single_turn = single_turn
        trainer.train()
    first = next(entry for entry in trainer.state.log_history if "grad_norm" in entry)
    sys.stdout.write("\n" + json.dumps({"seconds": watch.seconds, "tokens": drawn, "loss": first["loss"],
                                        "grad_norm": first["grad_norm"]}) + "\n")


if __name__ == "__main__":
    main()
