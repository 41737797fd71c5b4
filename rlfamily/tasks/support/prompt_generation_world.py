"""A small drawn world for the stand-in of prompt generation: one shape on a textured ground, and the words for it.

A scene is a shape with size, colour and a floor; a look is a ground with a texture. Each is named by one word, so that
what a text says of an image is the set of its words. Images are 32 x 32 RGB, drawn by numpy.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from pydantic import Field

from rlfamily.settings import Strict

SIDE = 32  # pixels
NOISE = 4.0  # standard deviation of the pixel noise, of 255
SIZES = {"small": 5, "large": 8}  # half of the width, in pixels
COLOURS = {"red": (215, 35, 35), "green": (30, 140, 50), "blue": (30, 50, 200), "yellow": (245, 225, 50),
           "black": (15, 15, 15), "white": (250, 250, 250), "orange": (245, 140, 20), "brown": (115, 65, 25)}
SHAPES = ("circle", "square", "triangle", "cross", "ring", "bar")
FLOORS = {"grass": (70, 175, 60), "sand": (235, 205, 125), "snow": (245, 248, 252), "water": (40, 110, 200),
          "lava": (230, 70, 20), "mud": (85, 60, 40), "tar": (25, 25, 30), "moss": (120, 135, 30),
          "coral": (250, 130, 125)}
HORIZON = 26  # first pixel row of the floor
GROUNDS = {"violet": (165, 110, 205), "parchment": (225, 200, 160), "azure": (140, 195, 235), "slate": (110, 115, 125)}
TEXTURES = ("wavy", "misty", "dotted", "woven")
SCENE_PARTS = (tuple(SIZES), tuple(COLOURS), SHAPES, tuple(FLOORS))
LOOK_PARTS = (tuple(GROUNDS), TEXTURES)
COMMA = ","
_WAVE, _FADE, _DOT, _THREAD = 24.0, 40.0, 30.0, 20.0  # contrasts of the textures, of 255

Scene = tuple[str, ...]
Look = tuple[str, ...]
SCENES: list[Scene] = list(itertools.product(*SCENE_PARTS))
LOOKS: list[Look] = list(itertools.product(*LOOK_PARTS))


@dataclass(frozen=True)
class Picture:
    """What is drawn: `scene` has one word of each of SCENE_PARTS, or is empty; `look` one of each of LOOK_PARTS."""

    scene: Scene
    look: Look


class Captioning(Strict):
    """Each word is said with probability `keep`; with `repeat`, some are said twice; with `shuffle`, all are mixed."""

    keep: float = Field(gt=0, le=1)
    repeat: float = Field(ge=0, le=1)
    shuffle: float = Field(ge=0, le=1)


def words() -> list[str]:
    """Every word for a scene or a look, and the words that say nothing."""
    return [word for part in (*SCENE_PARTS, *LOOK_PARTS) for word in part] + [COMMA]


def draw(picture: Picture, rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The image, uint8 (SIDE, SIDE, 3); `rng` moves texture and shape a little and adds noise."""
    ground, texture = picture.look
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float64)
    image = np.array(GROUNDS[ground], dtype=np.float64) + _texture(texture, y, x, rng)[..., None]
    if picture.scene:
        size, colour, shape, floor = picture.scene
        image[HORIZON:] = FLOORS[floor]
        dy, dx = y - HORIZON // 2 - rng.integers(-2, 3), x - SIDE // 2 - rng.integers(-5, 6)
        image[_inside(shape, dy, dx, SIZES[size])] = COLOURS[colour]
    noisy = image + rng.normal(0.0, NOISE, image.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def _texture(name: str, y: Any, x: Any, rng: np.random.Generator) -> Any:
    shift = rng.uniform(0, 8)
    if name == "wavy":
        return _WAVE * np.sin((y + 2 * np.sin((x + shift) / 3)) * 2 * np.pi / 8)
    if name == "misty":
        return _FADE * np.sin((y + shift) * np.pi / SIDE)
    if name == "dotted":
        return -_DOT * (((x + int(shift)) % 4 < 2) & ((y + int(shift)) % 4 < 2))
    return _THREAD * np.sign(np.sin((x + y + shift) * 2 * np.pi / 6))


def _inside(shape: str, y: Any, x: Any, half: int) -> Any:
    """Boolean mask of the shape around the origin; all shapes differ in outline, not only in area."""
    radius = np.hypot(y, x)
    box = np.maximum(abs(y), abs(x))
    masks = {
        "circle": radius <= half,
        "square": box <= half - 1,
        "triangle": (y <= half - 1) & (abs(x) <= (y + half) / 2),
        "cross": (box <= half) & (np.minimum(abs(y), abs(x)) <= half // 4),
        "ring": (radius <= half) & (radius >= half - 2),
        "bar": (abs(y) <= half // 3) & (abs(x) <= half),
    }
    return masks[shape]


def caption(rng: Random, scene: Sequence[str], look: Sequence[str], how: Captioning) -> str:
    """A text true of an image: some of its words, in order or mixed, some of them said twice."""
    first = [word for word in scene if rng.random() < how.keep]
    second = [word for word in look if rng.random() < how.keep]
    mixed = [*first, *second]
    if mixed and rng.random() < how.repeat:
        second += rng.choices(mixed, k=rng.randint(1, len(mixed)))
    if rng.random() < how.shuffle:
        mixed = [*first, *second]
        rng.shuffle(mixed)
        return " ".join(mixed)
    return join(first, second)


def join(scene: Sequence[str], look: Sequence[str]) -> str:
    """A text in the world's own order: `small red circle sand , violet wavy`."""
    return f" {COMMA} ".join(" ".join(part) for part in (scene, look) if part)
