"""What a device can do at most, measured, and what a model's arithmetic and memory traffic ask of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from bench.drawing import Draws, Shape


def settle(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def fastest(call: Callable[[], object], device: torch.device, tries: int = 10) -> float:
    """Wall seconds of the fastest of some calls, after two that do not count."""
    seconds = []
    for _ in range(tries + 2):
        settle(device)
        start = time.perf_counter()
        call()
        settle(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds[2:])


@dataclass(frozen=True)
class Roof:
    """Measured limits: `flops` a second of a large matrix product, `bandwidth` in bytes a second of a large copy."""

    flops: float
    bandwidth: float


def measured_roof(device: torch.device, dtype: torch.dtype, width: int, copied_mib: int) -> Roof:
    """The limits of a device for one dtype, from `width` x `width` matrices and a copy of `copied_mib`."""
    left, right = (torch.randn(width, width, device=device).to(dtype) for _ in range(2))
    product = fastest(lambda: left @ right, device)
    source = torch.zeros(copied_mib * 2**20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copied = fastest(lambda: target.copy_(source), device)
    return Roof(2 * width**3 / product, 2 * source.numel() / copied)  # a copy reads and writes


@dataclass(frozen=True)
class Counts:
    """Weights of a model: `body` works on every token, `head` where log-probs are asked for (tied: a table as well)."""

    body: int
    head: int

    @classmethod
    def of(cls, shape: Shape) -> Counts:
        """Of a Qwen2: q, k, v with biases, o, a gated MLP, two norms a layer, and a last norm."""
        width = shape.hidden_size
        keys = width // shape.num_attention_heads * shape.num_key_value_heads
        attention = 2 * width * width + width + 2 * keys * (width + 1)
        layer = attention + 3 * width * shape.intermediate_size + 2 * width
        return cls(layer * shape.num_hidden_layers + width, shape.vocab_size * width)


def update_flops(counts: Counts, given: Draws) -> float:
    """What a policy-gradient update needs: forward and backward, 6 a weight, over each distinct token once.

    A prompt counts once for its group, logits count at drawn tokens only, and attention scores do not count. It is the
    same number for every side, so whoever computes a prompt K times, or a pad, has done work that does not count.
    """
    tokens = sum(map(len, given.prompts)) + given.tokens
    return 6.0 * (counts.body * tokens + counts.head * given.tokens)


def decode_bytes(counts: Counts, shape: Shape, given: Draws, width: int = 2) -> float:
    """The least bytes that drawing has to read: all weights for every step, and the keys and values of running rows.

    `width` is bytes a number (2: bf16). A prompt's keys count once for its group. Prefill is left out.
    """
    running = [[row for row, length in enumerate(given.lengths) if length > step] for step in range(given.new_tokens)]
    cached = 0
    for step, rows in enumerate(running):
        cached += sum(len(given.prompts[prompt]) for prompt in {row // given.copies for row in rows}) + step * len(rows)
    head = shape.hidden_size // shape.num_attention_heads
    numbers = 2 * shape.num_hidden_layers * shape.num_key_value_heads * head  # keys and values of one token
    return width * (float(counts.body + counts.head) * given.new_tokens + float(numbers) * cached)
