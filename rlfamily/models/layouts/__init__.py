"""Layouts: how the tokens of rows lie in a pass through a model. One for each family; nothing else knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlfamily.errors import UserError
from rlfamily.models.batching import RowTensors
from rlfamily.models.layouts import check, encoder_decoder, packed, padded, shared_prefix, single
from rlfamily.models.layouts.declared import by_place, is_plain_encoder_decoder
from rlfamily.models.tokens import text_end

if TYPE_CHECKING:
    from rlfamily.models.layouts.session import Session
    from rlfamily.models.loaded import Loaded

T = TypeVar("T")


class Layout(Protocol):
    """Takes rows to passes, and what a model gives for a pass to the C real completion tokens, row by row.

    `ends` are the tokens that follow every prompt where it is read by an encoder.
    """

    ends: Sequence[int]

    def cut(self, rows: RowTensors, budget: int, start: int, stop: int) -> list[slice]:
        """Rows `start` to `stop` as passes of at most `budget` tokens each, at least one row."""
        ...

    def logits(self, model: PreTrainedModel, rows: RowTensors) -> list[Tensor]:
        """The logits of each forward pass that the rows take, laid out as the model gives them."""
        ...

    def at_tokens(self, states: Sequence[Tensor], rows: RowTensors) -> Tensor:
        """(C, ...): of logits, or of the hidden states that they are made of, those each token is predicted from."""
        ...

    def session(self, loaded: Loaded, prompts: RowTensors, group_R: Tensor) -> Session:
        """Rows that grow from prompts (rows without completions); row r starts from prompt `group_R[r]`."""
        ...


def layout_of(loaded: Loaded) -> Layout:
    """The fastest layout that gives what a plain pass of each row gives, in update and in decoding.

    Packed where attention is known to be plain, and then that is replaced; else padded; else row by row. Models with an
    encoder: prompts encoded once where nothing depends on the padding; else row by row.
    Raises UserError when none does: the model is not causal, or does not say what it was given.
    """
    model = loaded.model
    training, dtype = model.training, loaded.dtype
    model.eval()  # dropout would differ from itself
    loaded.dtype = "fp32"  # the rounding of bf16 would hide much
    try:
        with torch.no_grad():
            return _checked(loaded)
    finally:
        model.train(training)
        loaded.dtype = dtype


def _checked(loaded: Loaded) -> Layout:
    ends = text_end(loaded.tokenizer) if loaded.model.config.is_encoder_decoder else ()
    expected, reason = _attempt(partial(check.plain, loaded, ends))
    for layout in _candidates(loaded.model, ends) if expected else ():
        found, reason = _attempt(partial(check.differs, layout, loaded, expected or []))
        if found == "":
            return layout
        reason = reason or f"{found} differ from those of a plain pass of each row"
    raise UserError(f"model: {type(loaded.model).__name__} cannot be trained or drawn from here: {reason}: "
                    "use another model")


def _candidates(model: PreTrainedModel, ends: Sequence[int]) -> Iterator[Layout]:
    """From the fastest to the safest."""
    if model.config.is_encoder_decoder:
        if is_plain_encoder_decoder(model.config):
            yield encoder_decoder.EncoderDecoderLayout(ends)
        yield single.SingleLayout(ends)
        return
    if shared_prefix.enable(model):
        yield packed.PackedLayout()
        shared_prefix.disable(model)
    if not by_place(model.config):
        yield padded.PaddedLayout()
    yield single.SingleLayout()


def _attempt(ask: Callable[[], T]) -> tuple[T | None, str]:
    """What `ask` gives, or why it fails: a model may refuse a layout in any way."""
    try:
        return ask(), ""
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        return None, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
