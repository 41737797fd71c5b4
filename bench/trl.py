"""TRL's whole steps on a device, from its own environment; its first update must be the plain one."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from typing import Any

from bench.drawing import Draws
from bench.race import PEER, ROOT
from bench.training import RATE
from rlfamily.errors import UserError
from rlfamily.models.policy import Policy
from rlfamily.models.scratch import train_tokenizer

ROWS: dict[str, dict[str, Any]] = {"TRL": {}, "TRL, static cache": {"cache_implementation": "static"}}
"""TRL as it stands but for gradient checkpointing, which is off, and with what made it faster on CPUs."""


def available() -> bool:
    """True when the peer's environment has been made (make setup-peer)."""
    return PEER.exists()


def steps(policy: Policy, given: Draws, rows: list[list[int]], count: int, options: dict[str, Any]) -> dict[str, Any]:
    """`count` steps, the first on `rows`: seconds and tokens of each, loss and grad_norm of the first.

    All rows must be equally long. Raises UserError when TRL ends without an answer.
    """
    tokenizer = train_tokenizer(map(str, range(policy.model.config.vocab_size - 3)))  # a word for every token
    with tempfile.TemporaryDirectory() as folder:
        policy.model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        job = {"folder": folder, "prompts": [tokenizer.decode(prompt) for prompt in given.prompts], "rows": rows,
               "copies": given.copies, "steps": count, "rate": RATE, "bf16": policy.dtype == "bf16",
               "cpu": policy.device.type == "cpu", "options": options}
        done = subprocess.run(
            [str(PEER), "-m", "bench.peer.whole_steps"], input=json.dumps(job), cwd=folder, capture_output=True,
            text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"})
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no word"]
        raise UserError(f"bench: gpu: TRL ended: {said[-1]}: delete .venv-peer to do without it")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
