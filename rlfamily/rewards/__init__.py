"""Rewards: a number for each response, with the parts it is made of and the task's own verdicts beside it.

The file system is the registry: `get("verifiable")` imports `rlfamily/rewards/verifiable.py`, which offers a `Config`
and a `load`. Nothing here imports torch before a reward is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, Self

from pydantic import Field, SerializeAsAny, model_validator

from rlfamily.models import ScratchShape
from rlfamily.plugins import Plugins
from rlfamily.settings import Location, Optimizer, PairTraining, Strict, by_kind

if TYPE_CHECKING:
    import torch

    from rlfamily.examples import Example


Check = Callable[[str, Mapping[str, Any]], dict[str, float]]
"""(response, meta of its example) to what its task can tell of it without a model, by name."""

ReadLogits = Callable[[Sequence[Sequence[int]]], list[list[float]]]
"""Rows of token ids to the logits that a classifier reads at their ends."""

OpenClassifier = Callable[[Path, int | None], ReadLogits | str]
"""(model's folder, longest row in tokens or None for the model's own) to its logits, or to why there are none."""


@dataclass(frozen=True)
class ClassifierEngine:
    """What opens a classifier in vLLM. A model that vLLM does not know runs in transformers, which `note` must tell.

    `note` takes the model's name and the reason; it goes to the stage's log and to its manifest.
    """

    open: OpenClassifier
    note: Callable[[str, str], None]


@dataclass(frozen=True)
class RewardParts:
    """`reward` is what training maximises; `parts` are numbers to record beside it, never used to train.

    Parts are the reward's own components and whatever the task can tell of the response without a model: verdicts
    (0 or 1) of a checker, the hidden gold reward of a stand-in.
    """

    reward: float
    parts: dict[str, float]


class Reward(Protocol):
    """Anything that scores responses."""

    def score(
        self, examples: Sequence[Example], responses: Sequence[str], truncated: Sequence[bool] = ()
    ) -> list[RewardParts]:
        """Score response n (without its prompt) as an answer to example n; N in, N out.

        `truncated` says which responses a limit cut short of their end; empty means none.
        """
        ...


class HubSource(Strict):
    """A published model: hub id at a revision, or a local folder."""

    kind: Literal["hub"]
    path: Location
    revision: str


class Fitted(Strict):
    """A small reward model, trained from scratch on the task's preferences_<preferences>.jsonl.

    Refused when it orders fewer than `min_accuracy` of the held-out pairs as the labels do.
    """

    preferences: str
    shape: ScratchShape
    training: PairTraining
    min_accuracy: float = Field(ge=0, le=1)

    @model_validator(mode="after")
    def _check_shape(self) -> Self:
        if self.shape.family == "encoder_decoder":
            raise ValueError(f"shape.architecture={self.shape.architecture}: a reward model reads whole texts, an "
                             "encoder prompts alone: use qwen2 or llama")
        return self

    @property
    def most(self) -> int | None:
        """How many of the preferences it reads, the first; None: all."""
        return None


class TrainedSource(Fitted):
    """One that has read all preferences."""

    kind: Literal["trained"]


class PartlyTrainedSource(Fitted):
    """One of another quality: it has read the first `pairs` preferences alone."""

    kind: Literal["trained_partly"]
    pairs: int = Field(gt=0)

    @property
    def most(self) -> int:
        """How many it reads."""
        return self.pairs


class ContrastiveSource(Strict):
    """A small CLIP, trained from scratch on the task's own images and captions for `steps` batches of `batch` pairs.

    Refused when fewer than `min_recall` of the held-out images find their caption first.
    """

    kind: Literal["contrastive"]
    seed: int = Field(ge=0)
    hidden_size: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    text_layers: int = Field(gt=0)
    vision_layers: int = Field(gt=0)
    heads: int = Field(gt=0)
    patch_size: int = Field(gt=0)
    max_positions: int = Field(gt=0)
    steps: int = Field(gt=0)
    batch: int = Field(gt=0)
    optimizer: Optimizer
    min_recall: float = Field(ge=0, le=1)


AnyFitted = Annotated[TrainedSource | PartlyTrainedSource, Field(discriminator="kind")]
ModelSource = Annotated[HubSource | TrainedSource | PartlyTrainedSource | ContrastiveSource,
                        Field(discriminator="kind")]


class RewardConfig(Strict):
    """Common part of every reward's Config: its file in this folder, and the models it reads, by name.

    `teaches` is False where every response has the same reward.
    """

    teaches: ClassVar[bool] = True

    kind: str
    models: dict[str, ModelSource]

    def guiding(self) -> Self:
        """The reward without models that play no part in it and are recorded beside it."""
        return self

    def unsourced(self) -> Self:
        """How the models' scores become a reward; where the models come from is left out."""
        return self.model_copy(update={"models": {}})


class RewardModule(Protocol):
    """What a module in this folder offers. NEEDS: what it reads of the task's check and of examples' meta, by name."""

    VERSION: str
    NEEDS: frozenset[str]
    Config: type[RewardConfig]

    def load(
        self, config: Any, check: Check, models: Mapping[str, Path], device: torch.device, micro_batch: int,
        vllm: ClassifierEngine | None = None,
    ) -> Reward:
        """Make the reward; `models` holds the folder of each model that the config names, `check` is the
        task's, `vllm` is for those that ask.

        Raises UserError when a model cannot be loaded.
        """
        ...


REWARDS = Plugins[RewardModule]("rewards", "task.reward.kind", "reward", ("bradley_terry", "noise"))
names, get = REWARDS.names, REWARDS.get


def load(
    config: RewardConfig, check: Check, models: Mapping[str, Path], device: torch.device, micro_batch: int,
    vllm: ClassifierEngine | None = None,
) -> Reward:
    """Make the reward that `config` names. Raises UserError when a model cannot be loaded."""
    return get(config.kind).load(config, check, models, device, micro_batch, vllm)


AnyReward = Annotated[SerializeAsAny[RewardConfig], by_kind(lambda kind: get(kind).Config)]
