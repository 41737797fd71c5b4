"""Train a small CLIP on drawn pictures with captions: each text must find its pictures among those of the batch.

    L = - mean_j sum_i w_ij log softmax_i(s T(text_j) . I(picture_i))      w_ij uniform over pictures text j is true of

A caption may leave words out, and then it is true of many pictures: hence the uniform target, and hence no loss from
pictures to texts (Radford et al. 2021 have both): a picture has no single right text, the fullest would always win.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from rlfamily.errors import UserError
from rlfamily.models import clip, sharding
from rlfamily.records import read_jsonl
from rlfamily.rewards import ContrastiveSource
from rlfamily.rewards.clip import REFERENCES
from rlfamily.trainer.optimization import build_optimizer, build_schedule

if TYPE_CHECKING:
    from rlfamily.models.clip import Clip
    from rlfamily.place import Place

PICTURES, CAPTIONS = "pictures.npz", "captions.jsonl"
LARGEST_LOG_SCALE = 4.6052  # Radford et al. 2021, sec. 2.5: logits are scaled by 100 at most


@dataclass(frozen=True)
class Pictures:
    """N pictures, (N, H, W, 3) uint8, with captions true of each and `facts`: every word true of it."""

    images: Any
    captions: Sequence[Sequence[str]]
    facts: Sequence[Sequence[str]]

    def __len__(self) -> int:
        return len(self.captions)


def read_pictures(data: Path, split: str) -> Pictures:
    """The pictures of `split` (train, held_out) with their captions, as the task's `build` wrote them."""
    with np.load(data / PICTURES) as arrays:
        images = arrays[split]
    rows = [row for row in read_jsonl(data / CAPTIONS) if row["split"] == split]
    return Pictures(images, [row["captions"] for row in rows], [row["facts"] for row in rows])


def train(place: Place, data: Path, source: ContrastiveSource) -> dict[str, Any]:
    """Fit `source.steps` batches and write model/, with the reference images beside the weights.

    It takes under a minute and keeps no checkpoint. The totals hold `recall_images` and `recall_texts`: how many of the
    held-out pictures find their own caption first, and captions their picture. Raises UserError when the first is below
    source.min_recall.
    """
    device = sharding.accelerator(place.hardware).device
    pictures, held_out = read_pictures(data, "train"), read_pictures(data, "held_out")
    words = {word for facts in pictures.facts for word in facts}
    words |= {word for captions in pictures.captions for text in captions for word in text.split()}
    encoder = clip.build(source, words, pictures.images.shape[1], device)
    loss = fit(place, encoder, pictures, source)
    encoder.save(place.out / "model")
    shutil.copyfile(data / REFERENCES, place.out / "model" / REFERENCES)
    totals = {"loss": loss, **recall(encoder, held_out, source.batch), "held_out": len(held_out),
              "parameters": sum(parameter.numel() for parameter in encoder.model.parameters())}
    if totals["recall_images"] < source.min_recall:
        raise UserError(f"CLIP: {totals['recall_images']:.3f} of {len(held_out)} held-out pictures find their caption "
                        f"first, less than min_recall={source.min_recall}: raise task.reward.models.clip.steps")
    return totals


def fit(place: Place, encoder: Clip, pictures: Pictures, source: ContrastiveSource) -> float:
    """Train `encoder` in place; the loss of the last step, in nats."""
    rng = Random(source.seed)
    model = encoder.model.train()
    # All pictures at once, in one form: a batch picks its rows.
    pixels_NCHW = encoder.pixels(pictures.images)
    optimizer = build_optimizer(list(model.parameters()), source.optimizer, 1.0)
    schedule = build_schedule(optimizer, source.optimizer, source.steps)
    order: list[int] = []
    value = float("nan")
    for step in range(source.steps):
        if len(order) < source.batch:
            order = rng.sample(range(len(pictures)), len(pictures))
        rows, order = order[:source.batch], order[source.batch:]
        texts = [rng.choice(pictures.captions[row]) for row in rows]
        true_BB = matches(texts, [pictures.facts[row] for row in rows]).to(encoder.device)
        output = model(**encoder.tokens(texts), pixel_values=pixels_NCHW[rows])
        loss = text_loss(output.logits_per_text, true_BB)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), source.optimizer.clip_norm)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=LARGEST_LOG_SCALE)
        value = loss.item()
        place.progress(step + 1, source.steps, f"loss {value:z.2f}")
    model.eval()
    return value


def matches(texts: Sequence[str], facts: Sequence[Sequence[str]]) -> Tensor:
    """true_MN: 1 where text m says nothing that is not a fact of picture n."""
    known = [frozenset(words) for words in facts]
    return torch.tensor([[float(said <= words) for words in known]
                         for said in (frozenset(text.split()) for text in texts)])


def text_loss(logits_MN: Tensor, true_MN: Tensor) -> Tensor:
    """Mean cross-entropy, in nats, of the texts' distributions over the pictures; every text is true of one or more."""
    target_MN = true_MN / true_MN.sum(1, keepdim=True)
    return -(target_MN * logits_MN.log_softmax(1)).sum(1).mean()


def recall(encoder: Clip, pictures: Pictures, micro_batch: int) -> dict[str, float]:
    """Recall at 1, both ways, with the first caption of each picture, which names all of it."""
    images_ND = encoder.embed_images(pictures.images, micro_batch)
    texts_ND = encoder.embed_texts([captions[0] for captions in pictures.captions], micro_batch)
    similar_NN = images_ND @ texts_ND.T
    right_N = torch.arange(len(pictures))
    return {"recall_images": float((similar_NN.argmax(1) == right_N).float().mean()),
            "recall_texts": float((similar_NN.argmax(0) == right_N).float().mean())}
