"""The CLIP reward: its formula against plain numpy, caches that change nothing, references from either place."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from rlfamily import rewards
from rlfamily.errors import UserError
from rlfamily.examples import Example
from rlfamily.models import clip as model
from rlfamily.rewards import clip
from rlfamily.tasks import prompt_generation

CPU = torch.device("cpu")
WORDS = ["red", "blue", "circle", "square", ",", "wavy", "misty"]
SHAPE = SimpleNamespace(seed=0, hidden_size=16, intermediate_size=32, text_layers=1, vision_layers=1, heads=2, patch_size=8,
                        max_positions=7)
STYLES = {"surrealism": "Surrealism", "old_classics": "Old & Classics"}
EXAMPLES = [Example("a", "?", {"scene": "red circle", "style": "Surrealism"}),
            Example("b", "?", {"scene": "blue square", "style": "Old & Classics"}),
            Example("c", "?", {"scene": "red circle", "style": "Old & Classics"})]
RESPONSES = ["red circle , wavy", "blue square", "red circle , wavy"]


def config(**changes):
    return clip.Config.model_validate({"kind": "clip", "style": 0.7, "context": 0.3, "references": 3,
                                       "reference_images": None, "models": {}} | changes)


def pictures():
    rng = np.random.default_rng(0)
    return {name: rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8) for name in STYLES}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small CLIP with its reference images, as the stage leaves it."""
    out = tmp_path_factory.mktemp("clip")
    model.build(SHAPE, WORDS, 32, CPU).save(out)
    np.savez_compressed(out / clip.REFERENCES, **pictures())
    return out


def load(folder, **changes):
    return rewards.load(config(**changes).unsourced(), prompt_generation.score, {"clip": folder}, CPU, 2)


def test_the_formula(folder):
    encoder = model.load(folder, CPU)
    scored = load(folder).score(EXAMPLES, RESPONSES)
    for example, response, given in zip(EXAMPLES, RESPONSES, scored, strict=True):
        text = encoder.embed_texts([response], 1)[0].numpy()
        scene = encoder.embed_texts([example.meta["scene"]], 1)[0].numpy()
        images = pictures()[clip.key(example.meta["style"])]
        style = np.mean([text @ encoder.embed_images([image], 1)[0].numpy() for image in images])
        assert given.reward == pytest.approx(0.7 * style + 0.3 * (text @ scene), abs=1e-5)
        assert given.parts["style"] == pytest.approx(style, abs=1e-5)
        assert given.parts["context"] == pytest.approx(text @ scene, abs=1e-5)
    assert scored[1].parts["context"] == pytest.approx(1.0, abs=1e-5)
    assert scored[0].parts["style"] != pytest.approx(scored[2].parts["style"], abs=1e-3), "each style has its own images"


def test_the_weights_are_the_settings(folder):
    parts = load(folder).score(EXAMPLES, RESPONSES)
    other = load(folder, style=0.0, context=2.0).score(EXAMPLES, RESPONSES)
    assert [row.reward for row in other] == pytest.approx([2 * row.parts["context"] for row in parts], abs=1e-6)


def test_scoring_again_or_one_by_one_changes_nothing(folder):
    reward = load(folder)
    first = reward.score(EXAMPLES, RESPONSES)
    again = reward.score(EXAMPLES, RESPONSES)
    alone = [reward.score([example], [response])[0] for example, response in zip(EXAMPLES, RESPONSES, strict=True)]
    for a, b, c in zip(first, again, alone, strict=True):
        assert a.reward == pytest.approx(b.reward, abs=1e-6) == pytest.approx(c.reward, abs=1e-5)
    assert reward.score([], []) == []
    with pytest.raises(ValueError, match="1 responses to 3 examples"):
        reward.score(EXAMPLES, ["red"])


def test_images_and_scenes_are_embedded_once(folder):
    reward = load(folder)
    seen, embed = [], reward.clip.embed_texts
    counting = SimpleNamespace(embed_texts=lambda texts, size: seen.extend(texts) or embed(texts, size),
                               over_limit=reward.clip.over_limit)
    counted = clip.ClipReward(reward.config, reward.check, counting, reward.styles, reward.micro_batch)
    counted.score(EXAMPLES, RESPONSES)
    counted.score(EXAMPLES, ["", "", ""])
    assert sorted(seen) == sorted(["red circle , wavy", "blue square", "red circle", "blue square", ""])


def test_what_clip_does_not_read_is_marked_and_earns_nothing(folder):
    short, long = "red circle red circle red", "red circle red circle red blue"
    first, second = load(folder).score(EXAMPLES[:1] * 2, [short, long])
    assert (first.parts["over_77"], second.parts["over_77"]) == (0.0, 1.0)
    assert second.reward == pytest.approx(first.reward, abs=1e-6)


def test_the_tasks_own_parts_stand_beside(folder):
    parts = load(folder).score(EXAMPLES[:1], ["red\nblue"])[0].parts
    assert set(parts) == {"style", "context", "over_77", "format"}
    assert parts["format"] == 0.0


def test_images_of_the_user_come_first(folder, tmp_path):
    for name, arrays in pictures().items():
        (tmp_path / name).mkdir()
        for place, array in enumerate(arrays[::-1]):
            Image.fromarray(array).save(tmp_path / name / f"{place}.png")
    (tmp_path / "README.txt").write_text("not a style")
    own = load(folder, reference_images=str(tmp_path)).score(EXAMPLES, RESPONSES)
    assert [row.reward for row in own] == pytest.approx([row.reward for row in load(folder).score(EXAMPLES, RESPONSES)],
                                                       abs=1e-5)
    (tmp_path / "surrealism" / "2.png").unlink()
    with pytest.raises(UserError, match="holds 2 images, 3 are needed"):
        load(folder, reference_images=str(tmp_path))


def test_a_published_clip_brings_no_images(folder, tmp_path):
    model.load(folder, CPU).save(tmp_path)
    with pytest.raises(UserError, match="brings no reference images: give a folder") as error:
        load(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("style", "folder_name"), [
    ("Korean & East Asian Classics", "korean_east_asian_classics"), ("Surrealism", "surrealism"), ("old_classics", "old_classics")])
def test_a_styles_folder(style, folder_name):
    assert clip.key(style) == folder_name
