"""What both sides of a generation benchmark get: a random Qwen2, prompts, and the length of every response."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from rlfamily.models.loaded import Loaded
from rlfamily.models.policy import Policy
from rlfamily.models.scratch import train_tokenizer
from rlfamily.rollout import Completion, SamplingParams, torch_engine, torch_growth
from rlfamily.rollout.torch_engine import TorchEngine

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Shape:
    """A `Qwen2ForCausalLM` with tied embeddings; weights start as N(0, initializer_range)."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    initializer_range: float


# Wide enough that greedy rows wander: with less, a tied model repeats its last token, whatever its cache holds.
TINY = Shape(32, 64, 2, 4, 2, 40, 0.3)
SMALL = Shape(128, 384, 4, 4, 2, 260, 0.1)  # 0.8M parameters
MEDIUM = Shape(384, 1024, 8, 6, 2, 260, 0.1)  # 12.7M


@dataclass(frozen=True)
class Draws:
    """`copies` responses to each of B prompts; row n of the N = B x copies ends with EOS as its token `lengths[n]`."""

    prompts: list[list[int]]
    copies: int
    lengths: list[int]

    @property
    def tokens(self) -> int:
        """Tokens to draw, EOS included."""
        return sum(self.lengths)

    @property
    def new_tokens(self) -> int:
        """The longest response."""
        return max(self.lengths)

    @property
    def longest(self) -> int:
        """Room for the longest response to the longest prompt."""
        return max(map(len, self.prompts)) + self.new_tokens


def draws(prompt_lengths: Sequence[int], copies: int, new_tokens: int, vocabulary: int, early: bool = False) -> Draws:
    """Random prompts of these lengths. With `early`, rows end anywhere from the 4th token on, else all at the last."""
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(3, vocabulary, (length,), generator=generator).tolist() for length in prompt_lengths]
    least, rows = min(4, new_tokens), len(prompts) * copies
    # A fixed schedule, spread evenly and in no order: 37 shares no factor with the 61 lengths from 4 to 64.
    lengths = [least + 37 * row % (new_tokens - least + 1) for row in range(rows)] if early else [new_tokens] * rows
    return Draws(prompts, copies, lengths)


def random_policy(shape: Shape, positions: int, dtype: str = "fp32", device: torch.device = CPU) -> Policy:
    """The same random weights at every call on the same kind of device, for sequences of up to `positions` tokens."""
    tokenizer = train_tokenizer([])  # padding, unknown and end: nobody reads the texts
    torch.manual_seed(0)
    with device:
        model = Qwen2ForCausalLM(Qwen2Config(
            **vars(shape), max_position_embeddings=positions, tie_word_embeddings=True, bos_token_id=None,
            pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id))
    return Policy(model.eval(), tokenizer, dtype, device)


def plain_model(policy: Loaded) -> Any:
    """A copy of the model as transformers made it, with the attention that it chose itself."""
    model: Any = copy.deepcopy(policy.model)
    model.set_attn_implementation("sdpa")
    return model


def force(logits_NV: Tensor, ending: Tensor | None, eos_id: int) -> Tensor:
    """In place: EOS for certain in the rows `ending`, nowhere else."""
    logits_NV[:, eos_id] = -torch.inf
    if ending is not None:
        logits_NV[ending] = -torch.inf
        logits_NV[ending, eos_id] = 0.0
    return logits_NV


def ours(policy: Policy, given: Draws, greedy: bool = False, logps: bool = False) -> list[Completion]:
    """Every row, by the torch engine as a run uses it, but for rows that end at their lengths."""
    engine = TorchEngine(policy, len(given.lengths))
    seeds = range(0, len(given.lengths), given.copies)
    params = SamplingParams(greedy, 1.0, given.longest, logps=logps)
    with patch.object(torch_engine, "TorchGrowth", _ending(given, policy)):
        return engine.generate(given.prompts, params, seeds, given.copies)


def _ending(given: Draws, policy: Policy) -> type:
    """The engine's state of a batch; it alone knows which row stands where after others have ended."""
    length_N = torch.tensor(given.lengths, device=policy.device)

    class Ending(torch_growth.TorchGrowth):
        def _choose(self, logits_RV: Tensor, going_R: Tensor | None) -> tuple[Tensor, Tensor]:
            step = int(self.length_N[self.row_R[0]]) + 1
            ending = (length_N[self.row_R] == step).nonzero()[:, 0] if step in given.lengths else None
            return super()._choose(force(logits_RV, ending, policy.eos_id), going_R)

    return Ending
