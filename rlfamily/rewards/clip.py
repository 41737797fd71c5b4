"""The reward of GN-IVO's prompt generation: does a prompt call up the style, and does it keep the scene? (App. C)

    R(text) = w_style mean_i cos(T(text), I(reference_i)) + w_context cos(T(text), T(scene))      i over 3 references

T and I are the text and image encoders of one CLIP. The paper does not say what encodes the second term: T here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from rlfamily.errors import UserError
from rlfamily.rewards import Check, ClassifierEngine, RewardConfig, RewardParts
from rlfamily.settings import Location

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from rlfamily.examples import Example
    from rlfamily.models.clip import Clip

VERSION = "1"
NEEDS: frozenset[str] = frozenset({"scene", "style"})
MODEL = "clip"
REFERENCES = "references.npz"  # beside a stand-in's weights: the images of each style, uint8, under the style's key
IMAGES = (".jpg", ".jpeg", ".png", ".webp")


class Config(RewardConfig):
    """The two weights, and the folder with `references` images for each style in a sub-folder named by `key(style)`.

    `reference_images` null takes the images that a stand-in's CLIP brings with it.
    """

    kind: Literal["clip"]
    style: float = Field(ge=0)
    context: float = Field(ge=0)
    references: int = Field(gt=0)
    reference_images: Location | None


@dataclass(frozen=True)
class ClipReward:
    """Scores the text alone: the prompt plays no part. Examples carry `scene` and `style` in their meta.

    Beside the parts `style` and `context`, `over_77` is 1 when the text is longer than CLIP reads (77 tokens in the
    published models): what lies behind neither earns nor costs anything.
    """

    config: Config
    check: Check
    clip: Clip
    styles: Mapping[str, Tensor]  # unit embeddings of the references, (references, D), by key of the style
    micro_batch: int
    scenes: dict[str, Tensor] = field(default_factory=dict)  # unit embeddings seen so far: scenes recur at every step

    def score(
        self, examples: Sequence[Example], responses: Sequence[str], truncated: Sequence[bool] = ()
    ) -> list[RewardParts]:
        """Score response n as an answer to example n. Raises ValueError when their numbers differ."""
        if len(examples) != len(responses):
            raise ValueError(f"{len(responses)} responses to {len(examples)} examples")
        if not examples:
            return []
        texts = list(dict.fromkeys(responses))  # a group often repeats itself
        place = {text: index for index, text in enumerate(texts)}
        embedded_UD = self.clip.embed_texts(texts, self.micro_batch)
        over = self.clip.over_limit(texts)
        self._learn_scenes(examples)
        scored = []
        for example, response in zip(examples, responses, strict=True):
            index = place[response]
            style = float((self.styles[key(example.meta["style"])] @ embedded_UD[index]).mean())
            context = float(self.scenes[example.meta["scene"]] @ embedded_UD[index])
            parts = {"style": style, "context": context, "over_77": float(over[index]),
                     **self.check(response, example.meta)}
            scored.append(RewardParts(self.config.style * style + self.config.context * context, parts))
        return scored

    def _learn_scenes(self, examples: Sequence[Example]) -> None:
        new = sorted({example.meta["scene"] for example in examples} - self.scenes.keys())
        if new:
            self.scenes.update(zip(new, self.clip.embed_texts(new, self.micro_batch), strict=True))


def load(
    config: Config, check: Check, models: Mapping[str, Path], device: torch.device, micro_batch: int,
    vllm: ClassifierEngine | None = None,
) -> ClipReward:
    """Load the CLIP and embed the reference images once. Raises UserError when either cannot be had."""
    from rlfamily.models import clip

    folder = models[MODEL]
    encoder = clip.load(folder, device)
    images = _references(folder, config)
    styles = {name: encoder.embed_images(pictures, micro_batch) for name, pictures in images.items()}
    return ClipReward(config, check, encoder, styles, micro_batch)


def key(style: str) -> str:
    """A style's name as a folder's: `Korean & East Asian Classics` is korean_east_asian_classics."""
    return re.sub(r"[^a-z0-9]+", "_", style.lower()).strip("_")


def reference_files(folder: str | None, count: int, style: str) -> list[Path]:
    """The `count` images of one style in the user's folder, by name. Raises UserError when they are not all there."""
    where = "task.reward.reference_images"
    if folder is None:
        raise UserError(f"{where}: the paper's reference images are not published: give a folder with {count} images "
                        f"of your own for each style, in sub-folders such as {key(style)}/")
    place = Path(folder) / key(style)
    files = sorted(path for path in place.glob("*") if path.suffix.lower() in IMAGES)
    if len(files) != count:
        raise UserError(f"{where}: {place} holds {len(files)} images, {count} are needed for the style '{style}': put "
                        f"them there ({' '.join(IMAGES)}), or change task.reward.references")
    return files


def _references(folder: Path, config: Config) -> dict[str, list[Any]]:
    """Images by key of their style: the user's, or those that lie beside a stand-in's weights."""
    import numpy as np
    from PIL import Image

    if config.reference_images is not None:
        places = sorted(path.name for path in Path(config.reference_images).glob("*") if path.is_dir())
        return {place: [Image.open(file).convert("RGB")
                        for file in reference_files(config.reference_images, config.references, place)]
                for place in places}
    if not (folder / REFERENCES).exists():
        raise UserError("task.reward.reference_images: this CLIP brings no reference images: give a folder of your own")
    with np.load(folder / REFERENCES) as arrays:
        return {name: list(arrays[name]) for name in arrays.files}
