"""CLIP: texts and images as unit vectors of one space. Published weights, or a small model of the same classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessorPil,  # not the torchvision one: images come out alike on every machine
    CLIPModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from rlfamily.errors import UserError
from rlfamily.models.policy import locate

PAD, UNKNOWN, START, END = "<pad>", "<unk>", "<bos>", "<eos>"
GREY = [0.5] * 3  # mean and standard deviation of a channel: a small model's pixels lie in [-1, 1]


@dataclass(frozen=True)
class Clip:
    """A CLIP with its tokenizer and image processor, in fp32 on `device`."""

    model: CLIPModel
    tokenizer: PreTrainedTokenizerBase
    processor: CLIPImageProcessorPil
    device: torch.device

    @property
    def limit(self) -> int:
        """Tokens that the text encoder reads, start and end included: 77 in the published models."""
        return int(self.model.config.text_config.max_position_embeddings)

    def tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """ids_NT and attention_NT on the device, padded to the longest, cut at the limit (the end token stays)."""
        encoded = self.tokenizer(list(texts), padding=True, truncation=True, max_length=self.limit, return_tensors="pt")
        return {name: encoded[name].to(self.device) for name in ("input_ids", "attention_mask")}

    def over_limit(self, texts: Sequence[str]) -> list[bool]:
        """For each text, whether its end is not read."""
        return [len(ids) > self.limit for ids in self.tokenizer(list(texts), verbose=False)["input_ids"]]

    def pixels(self, images: Sequence[Any]) -> Tensor:
        """pixels_NCHW on the device, of RGB images: PIL, or uint8 arrays (H, W, 3) of any equal or different size."""
        return self.processor(images=list(images), return_tensors="pt")["pixel_values"].to(self.device)

    def embed_texts(self, texts: Sequence[str], micro_batch: int) -> Tensor:
        """Unit embeddings_ND on the CPU, without gradient."""
        # The vector stands at the end token and attention is causal: padding behind it changes nothing.
        return _in_parts(texts, micro_batch, lambda part: self.model.get_text_features(**self.tokens(part)))

    def embed_images(self, images: Sequence[Any], micro_batch: int) -> Tensor:
        """Unit embeddings_ND on the CPU, without gradient."""
        return _in_parts(images, micro_batch, lambda part: self.model.get_image_features(self.pixels(part)))

    def save(self, folder: Path) -> None:
        """Write weights, tokenizer and image settings in the hub's own format."""
        self.model.save_pretrained(folder, safe_serialization=True)
        self.tokenizer.save_pretrained(folder)
        self.processor.save_pretrained(folder)


def load(folder: Path, device: torch.device) -> Clip:
    """Load a CLIP from an artifact folder, frozen. Raises UserError when the folder holds no loadable CLIP."""
    source, options = locate(folder)
    try:
        model = CLIPModel.from_pretrained(source, dtype=torch.float32, use_safetensors=True, **options)
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        processor = CLIPImageProcessorPil.from_pretrained(source, **options)
    except (OSError, ValueError) as error:
        raise UserError(f"CLIP: cannot load '{source}': {' '.join(str(error).split())[:300]}") from error
    return Clip(model.to(device).eval().requires_grad_(False), tokenizer, processor, device)


def build(shape: Any, words: Iterable[str], image_side: int, device: torch.device) -> Clip:
    """A random small CLIP for texts of `words`; `shape` has the fields of a `ContrastiveSource`, its seed included."""
    tokenizer = _word_tokenizer(words, shape.max_positions)
    common = {"hidden_size": shape.hidden_size, "intermediate_size": shape.intermediate_size,
              "num_attention_heads": shape.heads, "projection_dim": shape.hidden_size}
    text = common | {"num_hidden_layers": shape.text_layers, "max_position_embeddings": shape.max_positions,
                     "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id,
                     "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    vision = common | {"num_hidden_layers": shape.vision_layers, "image_size": image_side,
                       "patch_size": shape.patch_size}
    torch.manual_seed(shape.seed)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=shape.hidden_size))
    # Drawn images have the model's own size already.
    processor = CLIPImageProcessorPil(do_resize=False, do_center_crop=False, image_mean=GREY, image_std=GREY)
    return Clip(model.to(device).eval(), tokenizer, processor, device)


def _word_tokenizer(words: Iterable[str], limit: int) -> PreTrainedTokenizerFast:
    """One token a word, start and end around each text. The end has the largest id.

    CLIP configurations of old say `eos_token_id: 2` and mean "the largest id of the text": so no word may lie above.
    """
    ids = {word: index for index, word in enumerate([PAD, UNKNOWN, START, *sorted(set(words)), END])}
    tokenizer = Tokenizer(WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, ids[START]), (END, ids[END])])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNKNOWN, bos_token=START,
                                   eos_token=END, model_max_length=limit, clean_up_tokenization_spaces=False)


def _in_parts(items: Sequence[Any], micro_batch: int, embed: Callable[[Sequence[Any]], Any]) -> Tensor:
    parts = []
    with torch.no_grad():
        for start in range(0, len(items), micro_batch):
            output = embed(items[start:start + micro_batch])
            parts.append(functional.normalize(output.pooler_output.float(), dim=-1).cpu())
    return torch.cat(parts)
