"""Logged responses as tokens, with the log-prob of each under the reference policy: a file that training runs share.

All of a prompt's responses stand together, in the order of the data; how many there are differs from prompt to prompt.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlfamily.models.batching import Rows


@dataclass(frozen=True)
class LoggedGroup:
    """A prompt's responses with their rewards as logged, and the log-prob of every token, in nats."""

    rows: Rows
    rewards: list[float]
    ref_logp: list[list[float]]


class LoggedRows:
    """B prompts with N responses. `rewards_N` are as logged, in float64; they can be replaced, the rest cannot."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self._prompt_ids_C, self._ids_C = tensors["prompt_ids_C"], tensors["ids_C"]
        self._ref_logp_C, self.rewards_N = tensors["ref_logp_C"], tensors["rewards_N"]
        self.sizes: list[int] = tensors["sizes_B"].tolist()
        self._prompts = _spans(tensors["prompt_lengths_B"].tolist())
        self._responses = _spans(tensors["lengths_N"].tolist())
        self._groups = _spans(self.sizes)

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def moments(self) -> tuple[float, float]:
        """Mean and standard deviation of the rewards, in units of the reward."""
        return float(self.rewards_N.mean()), float(self.rewards_N.std(correction=0))

    def standardise(self) -> None:
        """Give the rewards mean 0 and standard deviation 1."""
        mean, std = self.moments
        self.rewards_N = (self.rewards_N - mean) / std

    def group(self, place: int) -> LoggedGroup:
        """The group of the prompt at `place`."""
        members = self._groups[place]
        prompt, spans = self._prompt_ids_C[self._prompts[place]].tolist(), self._responses[members]
        return LoggedGroup(Rows([prompt] * len(spans), [self._ids_C[span].tolist() for span in spans]),
                           self.rewards_N[members].tolist(), [self._ref_logp_C[span].tolist() for span in spans])


def save(path: Path, groups: Sequence[LoggedGroup]) -> None:
    """Write groups into one file, whole or not at all."""
    rewards = [reward for group in groups for reward in group.rewards]
    completions = [ids for group in groups for ids in group.rows.completions]
    tensors = {
        "prompt_ids_C": _flat([group.rows.prompts[0] for group in groups]), "ids_C": _flat(completions),
        "prompt_lengths_B": torch.tensor([len(group.rows.prompts[0]) for group in groups], dtype=torch.long),
        "lengths_N": torch.tensor([len(ids) for ids in completions], dtype=torch.long),
        "sizes_B": torch.tensor([len(group.rewards) for group in groups], dtype=torch.long),
        "rewards_N": torch.tensor(rewards, dtype=torch.float64),
        "ref_logp_C": torch.tensor([logp for group in groups for row in group.ref_logp for logp in row]),
    }
    save_file(tensors, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def load(path: Path) -> LoggedRows:
    """Read what `save` or `join` wrote."""
    return LoggedRows(load_file(path))


def join(parts: Sequence[Path], path: Path) -> LoggedRows:
    """Write the groups of several files, in their order, as one; and give them."""
    read = [load_file(part) for part in parts]
    tensors = {name: torch.cat([one[name] for one in read]) for name in read[0]}
    save_file(tensors, path)
    return LoggedRows(tensors)


def _spans(lengths: Sequence[int]) -> list[slice]:
    ends = list(accumulate(lengths))
    return [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]


def _flat(rows: Sequence[Sequence[int]]) -> Tensor:
    return torch.tensor([token for row in rows for token in row], dtype=torch.int32)
