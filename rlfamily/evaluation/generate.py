"""Held-out responses of a finished policy, through any decoder. What they are worth is another stage's business."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from rlfamily import decoding
from rlfamily.decoding import Decoded
from rlfamily.evaluation.pool import Pool
from rlfamily.examples import Example, held_out
from rlfamily.models import Finetuning, sharding
from rlfamily.models.tokens import encode_example
from rlfamily.place import Place
from rlfamily.records import write_jsonl
from rlfamily.rollout import Engine, SamplingParams
from rlfamily.rollout.collect import decode, sampling_params
from rlfamily.rollout.engines import frozen
from rlfamily.rollout.settings import Generation
from rlfamily.stamp import stamp
from rlfamily.streams import held_out_seed

CHUNK = 64  # prompts between two progress notes
MODES = ("greedy", "sample")


def write_responses(
    place: Place, data: Path, policy: Path, finetuning: Finetuning, settings: Generation, version: str
) -> dict[str, Any]:
    """One greedy and `draws` sampled responses to each held-out prompt, into responses.jsonl, a line a response.

    What the pool of samples has already is not drawn again. Streams depend on the prompt and the draw alone, so that
    all cells meet the same chance (paired comparison).
    """
    begun = time.monotonic()
    examples = held_out(data, settings.prompts)
    sampler = Sampler(place, policy / "model", finetuning, settings)
    pool = Pool.at(place.shared, {
        "policy": policy.name, "data": data.name, "version": version, "dtype": finetuning.dtype,
        **settings.model_dump(mode="json", exclude={"prompts", "draws"})}, stamp(decoding.get(settings.decoding.kind)))
    rows = [row for mode, draws in zip(MODES, (1, settings.draws), strict=True)
            for row in sampler.rows(examples, mode, draws, pool)]
    write_jsonl(place.out / "responses.jsonl", rows)
    totals = {name: sum(row[name] for row in rows) for name in rows[0] if name.startswith("cost_")}
    return {"responses": len(rows), "drawn": pool.added, **totals, "seconds_generate": time.monotonic() - begun,
            **place.notes}


def params_of(settings: Generation, mode: str) -> SamplingParams:
    """How held-out responses are drawn; `mode` is sample or greedy."""
    return sampling_params(mode, settings.distribution, settings.limits)


@dataclass(frozen=True)
class Sampler:
    """The finished policy in folder `model`, which draws. It is loaded when the first response is asked for."""

    place: Place
    model: Path
    finetuning: Finetuning
    settings: Generation

    @cached_property
    def _opened(self) -> tuple[Engine, PreTrainedTokenizerBase]:
        """Engine and tokenizer. Raises UserError when the engine cannot be had."""
        device = sharding.accelerator(self.place.hardware).device
        return frozen(self.model, self.finetuning, device, self.settings.engine, self.place,
                      self.settings.limits.max_tokens)

    def rows(self, examples: Mapping[int, Example], mode: str, draws: int, pool: Pool) -> Iterator[dict[str, Any]]:
        """`draws` responses to each example as rows, with progress; drawn as far as the pool lacks them.

        An example's item is its place in the test split, whichever others are drawn.
        """
        places = list(examples)
        for start in range(0, len(places), CHUNK):
            items = places[start:start + CHUNK]
            part = [examples[item] for item in items]
            self.place.progress(start, len(places), mode)
            known = pool.draws(mode, items)
            if known < draws:
                seeds = [held_out_seed(example.id) + known for example in part]
                drawn = self.draw(part, params_of(self.settings, mode), seeds, draws - known)
                pool.add(self._row(mode, items[index // (draws - known)], known + index % (draws - known), one)
                         for index, one in enumerate(drawn))
            for item, example in zip(items, part, strict=True):
                for draw in range(draws):
                    yield {"prompt": example.prompt, **pool.row(mode, item, draw)}

    def draw(
        self, examples: Sequence[Example], params: SamplingParams, seeds: Sequence[int], copies: int
    ) -> list[Decoded]:
        """`copies` responses to each example, an example's together."""
        decoder, (engine, tokenizer) = decoding.get(self.settings.decoding.kind), self._opened
        prompts = [encode_example(tokenizer, example) for example in examples]
        return decoder.decode(self.settings.decoding, engine, prompts, params, seeds, copies)

    def texts(self, drawn: Sequence[Decoded]) -> list[str]:
        """What was said."""
        return decode(self._opened[1], [one.completion.ids for one in drawn])

    def _row(self, mode: str, item: int, draw: int, one: Decoded) -> dict[str, Any]:
        return {"mode": mode, "item": item, "draw": draw, "response": self.texts([one])[0], "ids": one.completion.ids,
                "truncated": one.completion.truncated, **one.cost.counters()}
