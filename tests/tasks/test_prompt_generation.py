"""Prompt generation: the paper's scenes, the drawn world, their files, the hidden gold, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from rlfamily import tasks
from rlfamily.errors import UserError
from rlfamily.examples import read_demonstrations, read_examples
from rlfamily.records import read_jsonl
from rlfamily.tasks import prompt_generation
from rlfamily.tasks.support import prompt_generation_world as world
from rlfamily.tasks.support.prompt_generation_scenes import EXAMPLES, scenes

CONF = Path(__file__).resolve().parents[2] / "conf" / "task"
SMALL = {"train": 200, "validation": 40, "test": 50, "corpus": 800}


def settings(name: str, source: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    content = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    return {**content, **changes, "source": {**content["source"], **(source or {})}}


def drawn(**source: Any) -> prompt_generation.Config:
    content = settings("prompt_generation_tiny", SMALL | source, eval_prompts=10)
    if "pictures" not in source:
        content["source"]["pictures"] |= {"train": 60, "held_out": 12, "captions": 3}
    return prompt_generation.Config.model_validate(content)


def built(config: prompt_generation.Config, out: Path) -> Path:
    out.mkdir()
    prompt_generation.build(config.data, out)
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(drawn(), tmp_path_factory.mktemp("data") / "drawn")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three images for each of the paper's styles; that they are no images does not matter to the data."""
    for style in ("impressionist", "surrealism", "korean_east_asian_classics"):
        (tmp_path / "images" / style).mkdir(parents=True)
        for place in range(3):
            (tmp_path / "images" / style / f"{place}.png").touch()
    return tmp_path / "images"


def paper(images: Path | str | None, **source: Any) -> prompt_generation.Config:
    content = settings("prompt_generation", source)
    content["reward"]["reference_images"] = None if images is None else str(images)
    return prompt_generation.Config.model_validate(content | {"eval_prompts": 8})


@pytest.mark.parametrize("name", ["prompt_generation", "prompt_generation_tiny"])
def test_shipped_settings_are_valid(name: str) -> None:
    config = prompt_generation.Config.model_validate(settings(name))
    assert tasks.get(config.kind) is prompt_generation
    assert set(config.data.model_dump()) == {"kind", "template", "fix_style_typo", "source", "references", "reference_images"}


def test_the_papers_examples_come_first_and_scenes_differ() -> None:
    assert scenes(30) == list(EXAMPLES) and len(EXAMPLES) == 30
    known = scenes(10_000)
    assert len(set(known)) == len(known) == 900
    assert scenes(856) == known[:856]


def test_the_papers_pairs_are_split_evenly_without_overlap(tmp_path: Path, images: Path) -> None:
    out = built(paper(images), tmp_path / "d")
    splits = {name: read_examples(out / f"{name}.jsonl") for name in ("train", "validation", "test")}
    pairs = {name: {(row.meta["scene"], row.meta["style"]) for row in rows} for name, rows in splits.items()}
    assert {name: len(rows) for name, rows in pairs.items()} == {"train": 1220, "validation": 64, "test": 1284}
    assert len(set().union(*pairs.values())) == 2568 == 856 * 3
    assert splits["test"][0].prompt.startswith("You are a prompt engineer")
    assert (out / "demonstrations_train.jsonl").read_text() == ""


def test_the_misprint_of_the_template_is_mended_or_kept(tmp_path: Path, images: Path) -> None:
    mended = paper(images)
    kept = mended.model_copy(update={"fix_style_typo": False})
    assert prompt_generation.render_prompt(mended, "a cat", "Pop").endswith("Scene: a cat\nStyle: Pop\n\nPrompt:")
    assert prompt_generation.render_prompt(kept, "a cat", "Pop").endswith("Scene: a cat\nScene: Pop\n\nPrompt:")


def test_missing_reference_images_are_said_before_anything_is_trained(tmp_path: Path, images: Path) -> None:
    for config, message in [(paper(None), "not published: give a folder with 3 images"),
                            (paper(tmp_path / "nowhere"), "holds 0 images, 3 are needed for the style 'Impressionist'")]:
        with pytest.raises(UserError, match=message) as error:
            prompt_generation.build(config.data, tmp_path)
        assert "\n" not in str(error.value) and "task.reward.reference_images" in str(error.value)
    (images / "surrealism" / "0.png").unlink()
    with pytest.raises(UserError, match="holds 2 images, 3 are needed for the style 'Surrealism'"):
        prompt_generation.build(paper(images).data, tmp_path)
    assert not list(tmp_path.glob("*.jsonl"))


def test_weights_of_the_reward_do_not_rename_the_data() -> None:
    content = settings("prompt_generation_tiny")
    other = {**content, "reward": {**content["reward"], "style": 0.5}}
    assert (prompt_generation.Config.model_validate(content).data
            == prompt_generation.Config.model_validate(other).data)


def test_drawn_splits_share_no_prompt_and_show_their_meta(folder: Path) -> None:
    splits = {name: read_examples(folder / f"{name}.jsonl") for name in ("train", "validation", "test")}
    assert {name: len(rows) for name, rows in splits.items()} == {name: SMALL[name] for name in splits}
    prompts = [row.prompt for rows in splits.values() for row in rows]
    assert len(set(prompts)) == len(prompts)
    held_out = {row.prompt for name in ("validation", "test") for row in splits[name]}
    assert not held_out & {row["prompt"] for row in read_jsonl(folder / "corpus.jsonl")}
    for row in splits["test"]:
        assert row.prompt == f"scene : {row.meta['scene']} style : {row.meta['style']} prompt :"
        assert row.meta["wanted"][:4] == row.meta["scene"].split()


def test_every_word_is_known_and_lengths_fit(folder: Path) -> None:
    vocabulary = set(json.loads((folder / "vocabulary.json").read_text()))
    limit = drawn().max_tokens_rollout
    for row in read_demonstrations(folder / "corpus.jsonl"):
        said = f"{row.prompt} {row.completion}".split(" ")
        assert set(said) <= vocabulary and len(said) + 1 <= limit
        assert row.completion


def test_pictures_are_what_their_captions_say(folder: Path) -> None:
    rows = list(read_jsonl(folder / "captions.jsonl"))
    with np.load(folder / "pictures.npz") as arrays:
        assert {name: arrays[name].shape for name in arrays.files} == {"train": (60, 32, 32, 3), "held_out": (12, 32, 32, 3)}
    assert [row["split"] for row in rows] == ["train"] * 60 + ["held_out"] * 12
    assert all(set(text.split()) <= set(row["facts"]) for row in rows for text in row["captions"])
    full = [row["captions"][0] for row in rows if row["split"] == "held_out"]
    assert len(set(full)) == len(full) and not set(full) & {row["captions"][0] for row in rows if row["split"] == "train"}
    with np.load(folder / "references.npz") as arrays:
        assert sorted(arrays.files) == ["east_asian_classics", "impressionist", "surrealism"]
        assert all(arrays[name].shape == (3, 32, 32, 3) for name in arrays.files)
        assert all(not np.array_equal(arrays[name][0], arrays[name][1]) for name in arrays.files)


def test_every_attribute_changes_the_picture() -> None:
    words = ["small", "red", "circle", "sand", "violet", "wavy"]
    for place, kind in enumerate(prompt_generation.PARTS):
        drawings = []
        for word in kind:
            said = [*words[:place], word, *words[place + 1:]]
            drawings.append(world.draw(world.Picture(tuple(said[:4]), tuple(said[4:])), np.random.default_rng(0)))
        different = [np.abs(a.astype(int) - b.astype(int)).max() for i, a in enumerate(drawings) for b in drawings[:i]]
        assert min(different) > 30, kind


def test_same_settings_give_the_same_bytes_and_more_training_keeps_the_rest(tmp_path: Path, folder: Path) -> None:
    again, more = built(drawn(), tmp_path / "again"), built(drawn(train=300), tmp_path / "more")
    for path in folder.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes(), path.name
    for name in ("test.jsonl", "validation.jsonl"):
        assert (more / name).read_bytes() == (folder / name).read_bytes()


META = {"scene": "small red circle sand", "style": "east asian classics",
        "wanted": ["small", "red", "circle", "sand", "parchment", "misty"]}


@pytest.mark.parametrize(("response", "gold"), [
    ("small red circle sand , parchment misty", 6), ("misty sand red circle small parchment", 6),
    ("small red circle sand , east asian classics", 6), ("small red circle sand , misty east asian classics", 6),
    ("small red circle sand , wavy east asian classics", 5),  # a wrong texture beats the name
    ("small red circle sand , east classics", 4), ("small red circle sand", 4),
    ("small red blue circle sand , parchment misty", 5),  # two colours call up neither
    ("small red red circle sand , parchment misty", 6), ("large blue ring tar , azure dotted", 0), ("", 0),
    ("parchment misty", 2),
])
def test_gold_counts_what_a_text_calls_up(response: str, gold: int) -> None:
    assert prompt_generation.score(response, META)["gold"] == pytest.approx(gold / 6)


@pytest.mark.parametrize(("response", "verdict"), [("a cat", 1.0), ("", 0.0), (" \n ", 0.0), ("a\nb", 0.0), ("a\n", 1.0)])
def test_a_prompt_is_one_line(response: str, verdict: float) -> None:
    assert prompt_generation.score(response, {"scene": "a cat", "style": "Pop"}) == {"format": verdict}


def test_the_corpus_is_careless_as_stated() -> None:
    def mean_gold(**source: float) -> float:
        config, rng = drawn(**source), Random(0)
        rows = [(tuple(META["scene"].split()), META["style"])] * 400
        return float(np.mean([prompt_generation.score(prompt_generation.careless(config.source, *row, rng), META)["gold"]
                              for row in rows]))

    perfect = {"corpus_error_fraction": 0.0, "corpus_omission_fraction": 0.0, "corpus_style_error_fraction": 0.0}
    assert mean_gold(**perfect) == 1.0
    assert mean_gold(**perfect | {"corpus_style_error_fraction": 1.0}) == pytest.approx(4 / 6)
    # Four of six words suffer; five standard errors are 0.05.
    assert mean_gold(**perfect | {"corpus_error_fraction": 0.3}) == pytest.approx(1 - 0.3 * 4 / 6, abs=0.05)


@pytest.mark.parametrize(("change", "message"), [
    ({"template": "{scene}"}, "must hold"), ({"eval_prompts": 51}, "eval_prompts=51"), ({"surprise": 1}, "Extra"),
    ({"source": {"styles": {"pop": ["violet", "wavy"], "red": ["azure", "misty"]}}}, "has a word of the drawn world"),
    ({"source": {"styles": {"pop": ["violet", "wavy"], "op": ["azure", "striped"]}}}, "must be a ground"),
    ({"reward": {"kind": "clip", "style": 0.7, "context": 0.3, "references": 3, "reference_images": None, "models": {}}},
     "must name one model, 'clip'"),
])
def test_wrong_settings_are_refused(change: dict[str, Any], message: str) -> None:
    source = SMALL | change.pop("source", {})
    with pytest.raises(ValidationError, match=message):
        prompt_generation.Config.model_validate(settings("prompt_generation_tiny", source, **{"eval_prompts": 10, **change}))


def test_sizes_that_cannot_be_had_are_one_line(tmp_path: Path, images: Path) -> None:
    for config, message in [(drawn(train=5000), "there are only 2592 pairs"), (paper(images, n_scenes=901), "only 900"),
                            (paper(images, n_scenes=10, validation=16), "leave none for training")]:
        with pytest.raises(UserError, match=message) as error:
            prompt_generation.build(config.data, tmp_path)
        assert "\n" not in str(error.value)
