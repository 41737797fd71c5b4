"""Layouts: how the tokens of rows lie in a pass through a model. One for each family; nothing else knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from torch import Tensor
from transformers import PreTrainedModel

from rlfamily.models.batching import RowTensors
from rlfamily.models.layouts import packed, padded, shared_prefix

if TYPE_CHECKING:
    from rlfamily.models.layouts.session import Session
    from rlfamily.models.loaded import Loaded


class Layout(Protocol):
    """Takes rows to passes, and what a model gives for a pass to the C real completion tokens, row by row."""

    def cut(self, rows: RowTensors, budget: int, start: int, stop: int) -> list[slice]:
        """Rows `start` to `stop` as passes of at most `budget` tokens each, at least one row."""
        ...

    def logits(self, model: PreTrainedModel, rows: RowTensors) -> Tensor:
        """One forward pass: the logits, laid out as the model gives them."""
        ...

    def at_tokens(self, states: Tensor, rows: RowTensors) -> Tensor:
        """(C, ...): of logits, or of the hidden states that they are made of, those each token is predicted from."""
        ...

    def session(self, loaded: Loaded, prompts: RowTensors, group_R: Tensor) -> Session:
        """Rows that grow from prompts (rows without completions); row r starts from prompt `group_R[r]`."""
        ...


def layout_of(model: PreTrainedModel) -> Layout:
    """The layout that `model` takes: packed where its attention is plain, and then that is replaced; else padded."""
    if shared_prefix.enable(model):
        return packed.PackedLayout()
    return padded.PaddedLayout()
