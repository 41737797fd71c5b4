"""What decoders with an implicit reward have in common: a tuned model and the one that it was tuned from."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field

from rlfamily.decoding import DecodingConfig
from rlfamily.rewards import HubSource
from rlfamily.settings import Strict


class HubPair(Strict):
    """Two published models with one tokenizer."""

    kind: Literal["hub"]
    tuned: HubSource
    untuned: HubSource


class TrainedPair(Strict):
    """The cell's model trained by `algorithm`, with its own settings, and what that training started from."""

    kind: Literal["trained"]
    algorithm: str


class Paired(DecodingConfig):
    """`pair`: where the two models come from."""

    pair: Annotated[HubPair | TrainedPair, Field(discriminator="kind")] | None

    def unsourced(self) -> Self:
        """How responses are made; where the models come from is left out."""
        return self.model_copy(update={"pair": None})
