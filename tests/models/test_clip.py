"""CLIP: texts and images as unit vectors, whatever the batch; the published format; the small one and its folder."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from rlfamily.errors import UserError
from rlfamily.models import clip

CPU = torch.device("cpu")
SHAPE = SimpleNamespace(seed=0, hidden_size=16, intermediate_size=32, text_layers=1, vision_layers=1, heads=2, patch_size=8,
                        max_positions=6)
TEXTS = ["red circle", "blue", "red circle , wavy", "", "blue blue"]


def images(count, side=32):
    return list(np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def small():
    return clip.build(SHAPE, ["red", "blue", "circle", ",", "wavy"], 32, CPU)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder laid out as the hub's: byte-pair tokenizer files, image settings, safetensors; 8 tokens are read."""
    folder = tmp_path_factory.mktemp("hub")
    letters = [*"abcdefghijklmnopqrstuvwxyz,&"]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "ca", "cat</w>", "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n")
    end = "<|endoftext|>"
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "CLIPTokenizer", "model_max_length": 8, "unk_token": end, "bos_token": "<|startoftext|>",
        "eos_token": end, "pad_token": end}))
    common = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    # As in the published configurations: eos_token_id says 2 and is not the tokenizer's.
    CLIPModel(CLIPConfig(
        text_config=common | {"vocab_size": len(words), "max_position_embeddings": 8, "eos_token_id": 2},
        vision_config=common | {"image_size": 28, "patch_size": 14}, projection_dim=8)).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(folder)
    return folder


def test_embeddings_are_unit_vectors_whatever_the_batch(small):
    alone = torch.cat([small.embed_texts([text], 1) for text in TEXTS])
    assert torch.allclose(alone.norm(dim=1), torch.ones(len(TEXTS)), atol=1e-6)
    for micro_batch in (1, 2, 8):
        assert torch.allclose(small.embed_texts(TEXTS, micro_batch), alone, atol=1e-5)
        assert torch.allclose(small.embed_images(images(3), micro_batch), small.embed_images(images(3), 3), atol=1e-5)
    assert not torch.allclose(alone[0], alone[2], atol=1e-3)


def test_what_lies_behind_the_limit_is_not_read(small):
    assert small.limit == 6  # start, four words, end
    long = "red blue red blue wavy"
    assert small.over_limit(["red blue red blue", long, ""]) == [False, True, False]
    assert torch.allclose(small.embed_texts([long], 1), small.embed_texts(["red blue red blue"], 1), atol=1e-6)
    assert small.tokens([long])["input_ids"][0, -1] == small.tokenizer.eos_token_id


def test_the_end_has_the_largest_id(small):
    assert small.tokenizer.eos_token_id == len(small.tokenizer) - 1
    assert small.tokens(["red nonsense"])["input_ids"][0].tolist()[2] == small.tokenizer.unk_token_id


def test_the_small_one_comes_back_from_its_folder(small, tmp_path):
    small.save(tmp_path)
    again = clip.load(tmp_path, CPU)
    # weights read from a file lie elsewhere in memory, and kernels may add in another order there
    torch.testing.assert_close(again.embed_texts(TEXTS, 2), small.embed_texts(TEXTS, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(again.embed_images(images(2), 2), small.embed_images(images(2), 2), atol=1e-5, rtol=0)
    assert again.limit == 6 and again.over_limit(["red blue red blue red"]) == [True]
    assert not any(parameter.requires_grad for parameter in again.model.parameters())
    assert not list(tmp_path.glob("*.bin"))


def test_the_seed_fixes_the_weights():
    words = ["red"]
    first, second, other = (clip.build(SimpleNamespace(**{**vars(SHAPE), "seed": seed}), words, 32, CPU).embed_texts(["red"], 1)
                            for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.allclose(first, other, atol=1e-3)


def test_a_published_folder_is_read_as_transformers_reads_it(published, tmp_path):
    (tmp_path / "pointer.json").write_text(json.dumps({"path": str(published), "revision": "main"}))
    encoder = clip.load(tmp_path, CPU)
    assert encoder.limit == 8
    assert encoder.over_limit(["a cat", "cat cat cat cat cat cat", "cat cat cat cat cat cat cat"]) == [False, False, True]
    picture = Image.fromarray(images(1, 60)[0]).resize((80, 60))
    pixels = encoder.pixels([picture])
    assert pixels.shape == (1, 3, 28, 28)
    assert float(pixels.min()) < -0.5 and float(pixels.max()) > 0.5  # normalised as the folder says
    # The reference: the model's own forward, one text, nothing padded.
    tokens = encoder.tokenizer(["a cat"], return_tensors="pt")
    with torch.no_grad():
        output = encoder.model(input_ids=tokens["input_ids"], pixel_values=pixels)
    together = encoder.embed_texts(["a cat", "a cat, cat & cat"], 2)
    assert torch.allclose(together[:1], output.text_embeds, atol=1e-5)
    assert torch.allclose(encoder.embed_images([picture], 1), output.image_embeds, atol=1e-5)


def test_a_folder_without_a_clip_is_one_line(tmp_path):
    with pytest.raises(UserError, match="CLIP: cannot load") as error:
        clip.load(tmp_path, CPU)
    assert "\n" not in str(error.value)
