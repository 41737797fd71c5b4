"""Pictures of the drawn world with captions, to train a small CLIP on, and the reference images of each style.

    pictures.npz     uint8 (N, H, W, 3) under `train` and `held_out`
    captions.jsonl   a row for each picture: split, captions (the first names all of it), facts (every word true of it)
    references.npz   uint8 (R, H, W, 3) under the key of each style: grounds without a shape
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from pydantic import Field

from rlfamily.records import write_jsonl
from rlfamily.rewards import clip
from rlfamily.settings import Strict
from rlfamily.tasks.support import prompt_generation_world as world


class Pictures(Strict):
    """How many pictures and captions. No held-out combination is among the training pictures.

    `styled_fraction` of the pictures are in one of the styles, the others in any look; `plain_fraction` of the training
    pictures show no shape. Of a picture's captions, `full_fraction` name it all, the others are as `captioning` says;
    `named_fraction` add the name of its style where it has one.
    """

    train: int = Field(gt=0)
    held_out: int = Field(gt=0)
    captions: int = Field(gt=0)
    styled_fraction: float = Field(ge=0, le=1)
    plain_fraction: float = Field(ge=0, lt=1)
    named_fraction: float = Field(ge=0, le=1)
    full_fraction: float = Field(ge=0, le=1)
    captioning: world.Captioning


Styles = Mapping[str, Sequence[str]]


def write(settings: Pictures, styles: Styles, seed: int, references: int, out: Path) -> dict[str, int]:
    """Write the three files into `out`, a function of the arguments; return counts."""
    rng, noise = Random(f"{seed} pictures"), np.random.default_rng(seed)
    held_out = _distinct(settings, styles, rng)
    train = _others(settings, styles, rng, set(held_out))
    splits = {"train": train, "held_out": held_out}
    _save(out / "pictures.npz", {name: _draw(shown, noise) for name, shown in splits.items()})
    write_jsonl(out / "captions.jsonl", (row for name, shown in splits.items()
                                         for row in _rows(settings, styles, name, shown, rng)))
    images = {clip.key(style): _draw([world.Picture((), tuple(look))] * references, noise)
              for style, look in styles.items()}
    _save(out / clip.REFERENCES, images)
    return {"pictures_train": len(train), "pictures_held_out": len(held_out), "references": references * len(styles)}


def _save(path: Path, arrays: dict[str, Any]) -> None:
    np.savez_compressed(path, **arrays)


def _distinct(settings: Pictures, styles: Styles, rng: Random) -> list[world.Picture]:
    chosen: dict[world.Picture, None] = {}
    while len(chosen) < settings.held_out:
        chosen[_picture(settings, styles, rng, 0.0)] = None
    return list(chosen)


def _others(settings: Pictures, styles: Styles, rng: Random, held_out: set[world.Picture]) -> list[world.Picture]:
    chosen: list[world.Picture] = []
    while len(chosen) < settings.train:
        picture = _picture(settings, styles, rng, settings.plain_fraction)
        if picture not in held_out:
            chosen.append(picture)
    return chosen


def _picture(settings: Pictures, styles: Styles, rng: Random, plain: float) -> world.Picture:
    styled = rng.random() < settings.styled_fraction
    look = tuple(rng.choice(list(styles.values()))) if styled else rng.choice(world.LOOKS)
    return world.Picture(() if rng.random() < plain else rng.choice(world.SCENES), look)


def _draw(shown: Sequence[world.Picture], noise: np.random.Generator) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.stack([world.draw(picture, noise) for picture in shown])


def _rows(
    settings: Pictures, styles: Styles, split: str, shown: Sequence[world.Picture], rng: Random
) -> Iterator[dict[str, Any]]:
    names = {tuple(look): name.split() for name, look in styles.items()}
    for picture in shown:
        name = names.get(picture.look, [])
        captions = [world.join(picture.scene, picture.look)]
        while len(captions) < settings.captions:
            said = name if rng.random() < settings.named_fraction else []
            if rng.random() < settings.full_fraction:
                captions.append(world.join(picture.scene, [*picture.look, *said]))
            else:
                captions.append(_joined(world.caption(rng, picture.scene, picture.look, settings.captioning), said))
        yield {"split": split, "captions": captions, "facts": [*picture.scene, *picture.look, *name, world.COMMA]}


def _joined(text: str, name: Sequence[str]) -> str:
    return " ".join(filter(None, [text, *name]))
