"""Prompt generation: write a text-to-image prompt for a scene in a style (GN-IVO App. C, the third text task).

Two sources behind one interface: animal-activity scenes and style names as in the paper (`scenes`), and scenes of a
small drawn world whose styles have words of their own (`drawn`). Formats are those of `rlfamily.tasks.Task.build`.
"""

from __future__ import annotations

import json
import random
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from rlfamily import tasks
from rlfamily.errors import UserError
from rlfamily.examples import Demonstration, Example
from rlfamily.records import write_jsonl
from rlfamily.rewards import clip
from rlfamily.settings import Location, Strict
from rlfamily.tasks import TaskConfig
from rlfamily.tasks.support import prompt_generation_pictures as pictures
from rlfamily.tasks.support import prompt_generation_world as world
from rlfamily.tasks.support.prompt_generation_scenes import scenes

VERSION = "1"
HAS: frozenset[str] = frozenset()
GIVES: frozenset[str] = frozenset({"scene", "style"})
PARTS = (*world.SCENE_PARTS, *world.LOOK_PARTS)


class Scenes(Strict):
    """Pairs of the first `n_scenes` scenes and every style, in an order that `seed` draws.

    The first `test_fraction` of them is for testing, the next `validation` pairs for validation, the rest for training.
    """

    kind: Literal["scenes"]
    seed: int = Field(ge=0)
    n_scenes: int = Field(gt=0)
    styles: list[str] = Field(min_length=1)
    test_fraction: float = Field(gt=0, lt=1)
    validation: int = Field(gt=0)


class Drawn(Strict):
    """Pairs of a drawn scene and a style. `styles` names each style's look: a ground and a texture.

    In the corpus a word of the scene is wrong with probability `corpus_error_fraction` and left out with
    `corpus_omission_fraction`; a style is another one's with `corpus_style_error_fraction`, and said by its name
    instead of by its look with `corpus_name_fraction`.
    """

    kind: Literal["drawn"]
    seed: int = Field(ge=0)
    styles: dict[str, list[str]] = Field(min_length=2)
    train: int = Field(gt=0)
    validation: int = Field(gt=0)
    test: int = Field(gt=0)
    corpus: int = Field(gt=0)
    corpus_error_fraction: float = Field(ge=0, le=1)
    corpus_omission_fraction: float = Field(ge=0, le=1)
    corpus_style_error_fraction: float = Field(ge=0, le=1)
    corpus_name_fraction: float = Field(ge=0, le=1)
    pictures: pictures.Pictures

    @field_validator("styles")
    @classmethod
    def _check_styles(cls, styles: dict[str, list[str]]) -> dict[str, list[str]]:
        for name, look in styles.items():
            if tuple(look) not in world.LOOKS:
                raise ValueError(f"style '{name}' must be a ground ({', '.join(world.GROUNDS)}) and a texture "
                                 f"({', '.join(world.TEXTURES)})")
            if set(name.split()) & set(world.words()):
                raise ValueError(f"style '{name}' has a word of the drawn world: name it otherwise")
        return styles


class Wording(tasks.Data):
    """What a prompt says. The paper's template (Fig. 5) reads `Scene:` before the style: `fix_style_typo` mends it."""

    template: str
    fix_style_typo: bool
    source: Scenes | Drawn = Field(discriminator="kind")

    @field_validator("template")
    @classmethod
    def _check_template(cls, template: str) -> str:
        fields = sorted(name for _, name, _, _ in string.Formatter().parse(template) if name is not None)
        if fields != ["scene", "style"]:
            raise ValueError("must hold {scene} once, {style} once and no other braces")
        return template


class Data(Wording):
    """All that the files of the task depend on: the wording, and the reference images where the reward looks at any.

    That they are not there is said before anything is trained.
    """

    references: int
    reference_images: Location | None


class Config(Wording, TaskConfig):
    """Settings of the task: its data, and how it is trained and evaluated on."""

    kind: Literal["prompt_generation"]

    @property
    def data(self) -> Data:
        """With the reward's images."""
        own = self.model_dump(include=set(Wording.model_fields))
        if not isinstance(self.reward, clip.Config):
            return Data(**own, references=0, reference_images=None)
        return Data(**own, references=self.reward.references, reference_images=self.reward.reference_images)

    @model_validator(mode="after")
    def _check(self) -> Config:
        if isinstance(self.reward, clip.Config) and set(self.reward.models) != {clip.MODEL}:
            raise ValueError(f"reward.models must name one model, '{clip.MODEL}'")
        return self

    @property
    def test_prompts(self) -> int:
        """Of either source."""
        return self.source.test if isinstance(self.source, Drawn) else _test_size(self.source)


def build(data: Data, out: Path) -> dict[str, Any]:
    """Write the task's files into `out` and return their counts. See `rlfamily.tasks.Task.build`."""
    if isinstance(data.source, Drawn):
        return _build_drawn(data, data.source, out)
    return _build_scenes(data, data.source, out)


def score(response: str, meta: Mapping[str, Any]) -> dict[str, float]:
    """`format`: one line that is not empty. `gold`, for drawn scenes: how much of what was asked the text calls up.

    Gold is the share of size, colour, shape, floor, ground and texture whose right word is said and no other of
    its kind; the style's name stands for its look. Saying a thing twice changes nothing.
    """
    parts = {"format": float(bool(response.strip()) and "\n" not in response.strip())}
    if "wanted" not in meta:
        return parts
    said = set(response.split())
    if set(meta["style"].split()) <= said:
        said |= {word for word, kind in zip(meta["wanted"], PARTS, strict=True) if kind in world.LOOK_PARTS}
    right = [said & set(kind) == {word} for word, kind in zip(meta["wanted"], PARTS, strict=True)]
    return parts | {"gold": sum(right) / len(right)}


def render_prompt(data: Data, scene: str, style: str) -> str:
    """Fill the template, mended or as printed."""
    template = data.template.replace("Scene: {style}", "Style: {style}") if data.fix_style_typo else data.template
    return template.format(scene=scene, style=style)


# ---------------------------------------------------------------------------- the paper's scenes


def _test_size(source: Scenes) -> int:
    return int(len(scenes(source.n_scenes)) * len(source.styles) * source.test_fraction)


def _build_scenes(data: Data, source: Scenes, out: Path) -> dict[str, Any]:
    for style in source.styles:
        clip.reference_files(data.reference_images, data.references, style)
    known = scenes(source.n_scenes)
    if len(known) < source.n_scenes:
        raise UserError(f"task.source.n_scenes: {source.n_scenes} asked, only {len(known)} combinations of animals and "
                        "activities are known: lower it")
    pairs = [(scene, style) for scene in known for style in source.styles]
    random.Random(source.seed).shuffle(pairs)
    test_end = _test_size(source)
    train_start = test_end + source.validation
    if train_start >= len(pairs):
        raise UserError(f"task.source: {len(pairs)} pairs leave none for training: lower test_fraction or validation")
    splits = {"test": pairs[:test_end], "validation": pairs[test_end:train_start], "train": pairs[train_start:]}
    for split, rows in splits.items():
        _write(out / f"{split}.jsonl", (
            Example(f"{split}-{place}", render_prompt(data, scene, style), {"scene": scene, "style": style})
            for place, (scene, style) in enumerate(rows)))
    _no_demonstrations(out)
    return {split: len(rows) for split, rows in splits.items()}


# ---------------------------------------------------------------------------- the drawn world


def _build_drawn(data: Data, source: Drawn, out: Path) -> dict[str, Any]:
    pairs = [(scene, style) for scene in world.SCENES for style in source.styles]
    wanted = source.test + source.validation + source.train
    if wanted > len(pairs):
        raise UserError(f"task.source: train + validation + test = {wanted}, but there are only {len(pairs)} pairs of "
                        "a scene and a style: lower them, or add styles")
    random.Random(f"{source.seed} pairs").shuffle(pairs)
    # Held-out splits first: they stay the same when more training data is asked for.
    start = 0
    for split in ("test", "validation", "train"):
        chosen, start = pairs[start:start + getattr(source, split)], start + getattr(source, split)
        _write(out / f"{split}.jsonl", (_drawn_example(data, source, f"{split}-{place}", scene, style)
                                        for place, (scene, style) in enumerate(chosen)))
    _no_demonstrations(out)
    _write(out / "corpus.jsonl", _corpus(data, source, chosen))  # of training prompts: the last split
    (out / "vocabulary.json").write_text(json.dumps(_vocabulary(data, source)))
    drawn = pictures.write(source.pictures, source.styles, source.seed, data.references, out)
    return {**{split: getattr(source, split) for split in ("train", "validation", "test", "corpus")}, **drawn}


def _drawn_example(data: Data, source: Drawn, name: str, scene: world.Scene, style: str) -> Example:
    text = world.join(scene, ())
    meta = {"scene": text, "style": style, "wanted": [*scene, *source.styles[style]]}
    return Example(name, render_prompt(data, text, style), meta)


def _corpus(data: Data, source: Drawn, pairs: Sequence[tuple[world.Scene, str]]) -> Iterator[Demonstration]:
    """Prompts as people write them: careless about the scene, unsure about the style."""
    rng = random.Random(f"{source.seed} corpus")
    for place in range(source.corpus):
        scene, style = rng.choice(pairs)
        prompt = render_prompt(data, world.join(scene, ()), style)
        yield Demonstration(f"corpus-{place}", prompt, careless(source, scene, style, rng))


def careless(source: Drawn, scene: world.Scene, style: str, rng: random.Random) -> str:
    """A prompt for `scene` in `style` with words missing and words wrong, as often as `source` says; never empty."""
    said = []
    for word, kind in zip(scene, world.SCENE_PARTS, strict=True):
        if rng.random() >= source.corpus_omission_fraction:
            wrong = rng.random() < source.corpus_error_fraction
            said.append(rng.choice([other for other in kind if other != word]) if wrong else word)
    if rng.random() < source.corpus_style_error_fraction:
        style = rng.choice([other for other in source.styles if other != style])
    if rng.random() < source.corpus_name_fraction:
        return world.join(said, style.split())
    look = [word for word in source.styles[style] if rng.random() >= source.corpus_omission_fraction]
    return world.join(said, look or style.split())


def _vocabulary(data: Data, source: Drawn) -> list[str]:
    """Every word of a prompt or a response."""
    names = [word for style in source.styles for word in style.split()]
    return sorted({*render_prompt(data, "", "").split(), *names, *world.words()})


# ---------------------------------------------------------------------------- rows


def _no_demonstrations(out: Path) -> None:
    """The paper starts from the base model: there is nothing to imitate."""
    for split in ("demonstrations_train", "demonstrations_validation"):
        _write(out / f"{split}.jsonl", ())


def _write(path: Path, rows: Iterable[Example | Demonstration]) -> None:
    write_jsonl(path, (asdict(row) for row in rows))
