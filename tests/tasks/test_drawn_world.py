"""The drawn world of prompt generation: where its shapes stand, what they look like, and how captions and looks vary."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from rlfamily.tasks.support import prompt_generation_pictures as pictures
from rlfamily.tasks.support import prompt_generation_world as world

# The small shapes, as drawn by hand.
SHAPES = {
    "circle": """
        .....#.....
        ..#######..
        .#########.
        .#########.
        .#########.
        ###########
        .#########.
        .#########.
        .#########.
        ..#######..
        .....#.....
    """,
    "square": """
        ...........
        .#########.
        .#########.
        .#########.
        .#########.
        .#########.
        .#########.
        .#########.
        .#########.
        .#########.
        ...........
    """,
    "triangle": """
        .....#.....
        .....#.....
        ....###....
        ....###....
        ...#####...
        ...#####...
        ..#######..
        ..#######..
        .#########.
        .#########.
        ...........
    """,
    "cross": """
        ....###....
        ....###....
        ....###....
        ....###....
        ###########
        ###########
        ###########
        ....###....
        ....###....
        ....###....
        ....###....
    """,
    "ring": """
        .....#.....
        ..#######..
        .#########.
        .##.....##.
        .##.....##.
        ###.....###
        .##.....##.
        .##.....##.
        .#########.
        ..#######..
        .....#.....
    """,
    "bar": """
        ...........
        ...........
        ...........
        ...........
        ###########
        ###########
        ###########
        ...........
        ...........
        ...........
        ...........
    """,
}
LOOK = ("violet", "wavy")


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "NOISE", 0.0)


def where(size: str, shape: str, seed: int) -> np.ndarray[Any, Any]:
    """The red pixels of a picture."""
    image = world.draw(world.Picture((size, "red", shape, "snow"), LOOK), np.random.default_rng(seed))
    assert (image[world.HORIZON:] == world.FLOORS["snow"]).all() and (image[world.HORIZON - 1] != world.FLOORS["snow"]).any()
    return (image == world.COLOURS["red"]).all(-1)


def box(mask: np.ndarray[Any, Any]) -> tuple[int, int, int, int]:
    """First and last row, first and last column."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return rows[0], rows[-1], columns[0], columns[-1]


@pytest.mark.parametrize("shape", world.SHAPES)
def test_a_small_shape_is_as_drawn_by_hand(clean: None, shape: str) -> None:
    drawn = where("small", shape, 0)
    top, bottom, left, right = box(drawn)
    lines = [line.strip() for line in SHAPES[shape].strip().splitlines()]
    by_hand = np.array([[sign == "#" for sign in line] for line in lines])
    first, last, start, end = box(by_hand)
    assert (drawn[top:bottom + 1, left:right + 1] == by_hand[first:last + 1, start:end + 1]).all()
    assert where("large", shape, 0).sum() > 1.5 * drawn.sum()


def test_shapes_stand_a_little_off_the_middle_of_the_ground(clean: None) -> None:
    """By up to two rows and five columns, each as often as any other."""
    boxes = [box(where("large", "square", seed)) for seed in range(400)]
    rows, columns = ([(one[first] + one[first + 1]) // 2 for one in boxes] for first in (0, 2))
    assert set(rows) == set(range(11, 16)) and set(columns) == set(range(11, 22))
    assert max(bottom for _, bottom, _, _ in boxes) < world.HORIZON


@pytest.mark.parametrize(("texture", "contrast", "middle"), [("wavy", 24, 0), ("misty", 40, 0), ("dotted", 30, -7.5), ("woven", 20, 0)])
def test_a_texture_is_a_pattern_of_its_contrast_about_the_ground(clean: None, texture: str, contrast: float, middle: float) -> None:
    off = [world.draw(world.Picture((), ("slate", texture)), np.random.default_rng(seed)).astype(float) - world.GROUNDS["slate"]
           for seed in range(40)]
    assert contrast - 3 <= np.abs(off).max() <= contrast + 1
    if texture == "misty":  # fades from the top to the bottom
        assert all((np.ptp(one, axis=1) == 0).all() and np.sign(np.diff(one[:, 0, 0])).max() <= 1 for one in off)
        assert all(np.abs(np.diff(one[:, 0, 0])).max() < 6 for one in off)
    else:
        assert np.mean(off) == pytest.approx(middle, abs=1.5)
    assert len({one.tobytes() for one in off}) > 1


def test_pixels_are_noisy() -> None:
    plain = world.draw(world.Picture((), ("slate", "dotted")), np.random.default_rng(0)).astype(float)
    steps = [np.std(plain[row::4, column::4], axis=(0, 1)) for row in range(4) for column in range(4)]
    assert np.mean(steps) == pytest.approx(4, abs=0.5)


HOW = {"keep": 1.0, "repeat": 0.0, "shuffle": 0.0}
SCENE = ("small", "red", "circle", "sand")
WHOLE = "small red circle sand , violet wavy"


@pytest.mark.parametrize(("how", "seen", "expected"), [
    ({}, lambda text: text == WHOLE, 1.0),
    ({"keep": 0.3}, lambda text: len(text.replace(",", "").split()) / 6, 0.3),
    ({"keep": 0.3}, lambda text: "violet" in text, 0.3),
    ({"repeat": 0.3}, lambda text: len(text.split()) > 7, 0.3),
    ({"repeat": 1.0}, lambda text: (len(text.split()) - 7) / 6, 3.5 / 6),  # one to all six, each as likely
    ({"shuffle": 0.3}, lambda text: "," not in text, 0.3),
    ({"shuffle": 1.0}, lambda text: text.split()[0] == "wavy", 1 / 6),
])
def test_captions_are_as_full_and_as_orderly_as_stated(how: dict[str, float], seen: Any, expected: float) -> None:
    rng, captioning = Random(0), world.Captioning(**HOW | how)
    found = [seen(world.caption(rng, SCENE, LOOK, captioning)) for _ in range(2000)]
    assert np.mean(found) == pytest.approx(expected, abs=0.035)  # three standard errors
    assert all(set(world.caption(rng, SCENE, LOOK, captioning).split()) <= {*WHOLE.split()} for _ in range(100))


STYLES = {"pop": ["violet", "wavy"], "op art": ["azure", "woven"]}


@pytest.mark.parametrize(("shares", "seen", "expected"), [
    ({"styled_fraction": 0.3}, lambda row: row["styled"], 0.3 + 0.7 * 2 / 16),
    ({"plain_fraction": 0.3}, lambda row: not row["scene"], 0.3),
    ({"full_fraction": 0.3}, lambda row: row["captions"][1] == row["captions"][0], 0.3),
    ({"full_fraction": 1.0, "named_fraction": 0.3, "styled_fraction": 1.0}, lambda row: row["captions"][1] != row["captions"][0], 0.3),
])
def test_pictures_are_mixed_as_stated(tmp_path: Path, shares: dict[str, float], seen: Any, expected: float) -> None:
    """Whatever the shares, the first caption names all of a picture, and those held out all show a shape."""
    settings = pictures.Pictures.model_validate({
        "train": 600, "held_out": 30, "captions": 2, "styled_fraction": 0.0, "plain_fraction": 0.0, "named_fraction": 0.0,
        "full_fraction": 0.0, "captioning": HOW | {"keep": 0.2}} | shares)
    counts = pictures.write(settings, STYLES, 0, 2, tmp_path)
    assert counts == {"pictures_train": 600, "pictures_held_out": 30, "references": 4}
    rows = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    for row in rows:
        row["scene"] = set(row["captions"][0].split()) & {word for part in world.SCENE_PARTS for word in part}
        row["styled"] = any(set(look) <= set(row["captions"][0].split()) for look in STYLES.values())
        assert len(row["captions"]) == 2 and len(set(row["captions"][0].split()) - {","}) == 2 + len(row["scene"])
    assert all(len(row["scene"]) == 4 for row in rows if row["split"] == "held_out")
    found = [seen(row) for row in rows if row["split"] == "train"]
    assert np.mean(found) == pytest.approx(expected, abs=0.065)  # three standard errors
    with np.load(tmp_path / "references.npz") as arrays:
        assert set(arrays.files) == {"pop", "op_art"}
        assert not (arrays["pop"][0] == arrays["pop"][1]).all()
