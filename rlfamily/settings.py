"""What every settings object is made of: strict, frozen, closed. No Python defaults: numbers live in conf/."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from rlfamily.errors import Misfit


class Strict(BaseModel):
    """Frozen, typed, and closed: an unknown, missing or mistyped key is an error, never a guess."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def by_kind(schema: Callable[[str], type[Strict]]) -> BeforeValidator:
    """Settings of a plug-in, checked by the class that its `kind` names: `Annotated[SerializeAsAny[Base], by_kind(f)]`.

    `schema` raises UserError for an unknown kind.
    """
    def checked(value: Any) -> Any:
        if isinstance(value, Mapping) and isinstance(value.get("kind"), str):
            chosen = schema(value["kind"])
            try:
                return chosen.model_validate(value)
            except ValidationError as error:
                raise Misfit(chosen, error) from error
        return value

    return BeforeValidator(checked)


def _address(text: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#]+\S*", text):
        raise ValueError("no address: write one as in http://localhost:8000/v1, or null where there may be none")
    return text


Url = Annotated[str, AfterValidator(_address)]

Location = Annotated[str, AfterValidator(os.path.expanduser)]
"""A folder or file, or a hub id; `~` is the home folder, in quotes and in yaml too, where no shell sees it."""


class Optimizer(Strict):
    """AdamW and its schedule. The rate is multiplied by the model's `lr_multiplier`; 0 is a negative control."""

    lr: float = Field(ge=0)
    beta1: float = Field(ge=0, lt=1)
    beta2: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    clip_norm: float = Field(gt=0)
    schedule: Literal["constant", "linear"]
    warmup_steps: int = Field(ge=0)


class Distribution(Strict):
    """What a response is drawn from: each token at `temperature`, among the `top_k` likeliest (0: all), and the
    likeliest of those that reach `top_p` together.

    Before that, as transformers' processors of these names have it: `repetition_penalty` makes what was said less
    likely (1.0: no), `no_repeat_ngram` forbids to say so many tokens again in their order (0: no). Said is what the
    model goes on from, a decoder's prompt included.
    """

    temperature: float = Field(gt=0)
    top_k: int = Field(ge=0)
    top_p: float = Field(gt=0, le=1)
    repetition_penalty: float = Field(gt=0)
    no_repeat_ngram: int = Field(ge=0)

    @property
    def whole(self) -> bool:
        """True when it is the model's own at this temperature: no token is left out, none less likely."""
        return (self.top_k, self.top_p, self.repetition_penalty, self.no_repeat_ngram) == (0, 1.0, 1.0, 0)

    @property
    def distribution(self) -> Distribution:
        """These settings, without what else a part of a configuration has beside them."""
        return Distribution.model_validate({name: getattr(self, name) for name in Distribution.model_fields})


class PairTraining(Strict):
    """Bradley-Terry training: `batch_pairs` preference pairs a step, `epochs` passes."""

    batch_pairs: int = Field(gt=0)
    epochs: int = Field(gt=0)
    optimizer: Optimizer


class RewardModelSettings(PairTraining, Distribution):
    """A reward model for one policy: its `prompts` pairs are that policy's own, drawn from this distribution."""

    prompts: int = Field(gt=0)


class Limits(Strict):
    """What bounds a response: tokens of prompt and response together, the most of the response alone (null: what the
    prompt leaves), and the fewest of it before its end.
    """

    max_tokens: int = Field(gt=0)
    max_new_tokens: int | None = Field(gt=0)
    min_new_tokens: int = Field(ge=0)

    @property
    def longest(self) -> int:
        """The most tokens that a response can have."""
        return self.max_new_tokens or self.max_tokens
